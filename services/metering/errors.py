"""The refusals that only metering has."""

from libs.common.errors import Kind, Refusal


class ModelExists(Refusal):
    """A model of this id exists; it was created by another request."""

    kind = Kind.ALREADY_EXISTS
    reason = "MODEL_EXISTS"
    template = "The model {model_id} exists already."
    remedy = "Use UpdateModel, or take another id."


class UnitExists(Refusal):
    """A unit of this id exists; it was created by another request, or came with Tollhouse."""

    kind = Kind.ALREADY_EXISTS
    reason = "UNIT_EXISTS"
    template = "The unit {unit_id} exists already."
    remedy = "Use UpdateUnit, or take another id."


class UnitNeeded(Refusal):
    """The unit is the one of a class of TokenCounts, or counts requests: usage would be refused without it."""

    kind = Kind.FAILED_PRECONDITION
    reason = "UNIT_NEEDED"
    template = "The unit {unit_id} cannot be archived: TokenCounts and the count of requests need it."
    remedy = "Keep the unit."


class TooManyUnits(Refusal):
    """Every process keeps all units in memory, so their number is limited."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_UNITS"
    template = "There are {units} units, archived ones included, which is the maximum."
    remedy = "Use a unit that exists."


class PriceVersionExists(Refusal):
    """The model has a price version with this effective time already; versions are never changed."""

    kind = Kind.ALREADY_EXISTS
    reason = "PRICE_VERSION_EXISTS"
    template = "The model {model_id} has a price version effective at {effective_time} already."
    remedy = "Set the new price with another effective_time."


class PriceUnknown(Refusal):
    """No price version was in force at that time, or it has no rate for a unit that was used."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PRICE_UNKNOWN"
    template = "The model {model_id} has no price in force at {occur_time}."
    remedy = "Set a price for the model and each of the units, effective at that time."
    _RATE_UNKNOWN = "The model {model_id} has no rate for {unit} in the service tier {service_tier} at {occur_time}."

    @property
    def message(self) -> str:
        """The sentence, which names the unit where only its rate is missing."""
        return self._RATE_UNKNOWN.format_map(self.facts) if "unit" in self.facts else super().message


class CostTooLarge(Refusal):
    """A call would cost more than an amount can be, for its price or its quantities are wrong."""

    kind = Kind.FAILED_PRECONDITION
    reason = "COST_TOO_LARGE"
    template = "The call would cost {amount} {currency_code}; an amount is below 1,000,000,000,000,000."
    remedy = "Check the quantities and the price of the model."


class ProviderCostUnknown(Refusal):
    """A margin needs the provider's cost of every rate of the version it is put on."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PROVIDER_COST_UNKNOWN"
    template = "The price version {price_version_id} has no provider cost for {units}."
    remedy = "Set the provider's costs first, or set the price without a margin."


class OperationIdInUse(Refusal):
    """The operation was authorized or its usage recorded before, and the caller asked to be refused then."""

    kind = Kind.ALREADY_EXISTS
    reason = "OPERATION_ID_IN_USE"
    template = "The operation id {operation_id} is in use; a call that is to begin takes one of its own."
    remedy = "Take a new operation id for a new call; another caller has this one."


class OrganizationNotFound(Refusal):
    """Identity knows no organization of this id, not even a deleted one, so nobody could pay."""

    kind = Kind.NOT_FOUND
    reason = "ORGANIZATION_NOT_FOUND"
    template = "There is no organization {organization_id}."
    remedy = "Check the organization id."

    def __init__(self, *, organization_id: str) -> None:
        super().__init__(organization_id=organization_id)
        self.resource = ("organization", organization_id)


class LimitExists(Refusal):
    """The organization has a limit of this name that counts something else; what a limit counts is never changed."""

    kind = Kind.ALREADY_EXISTS
    reason = "LIMIT_EXISTS"
    template = "The limit {limit} exists and has another {field}; delete it first."
    remedy = "Delete the limit first, or take another name."


class TooManyLimits(Refusal):
    """All limits of an organization are looked at for each of its calls, so their number is limited."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_LIMITS"
    template = "The organization has {limits} limits, which is the maximum."
    remedy = "Delete limits that are not needed."


class LimitScopeNotFound(Refusal):
    """The organization has no project, user, service account, key or subscription of this id that could be limited."""

    kind = Kind.NOT_FOUND
    reason = "LIMIT_SCOPE_NOT_FOUND"
    template = "The organization has no {scope} {scope_value}."
    remedy = "Check the id that the scope names."

    def __init__(self, *, scope: str, scope_value: str) -> None:
        super().__init__(scope=scope, scope_value=scope_value)
        self.resource = (scope, scope_value)


class AlreadySettled(Refusal):
    """The usage of the operation is recorded, so it has no further parts; or a part is, so it cannot be cancelled."""

    kind = Kind.FAILED_PRECONDITION
    reason = "ALREADY_SETTLED"
    template = "The operation {operation_id} is settled, or parts of it are."
    remedy = "Nothing needs to be done; read the usage with GetUsage."


class BelowEarlierPart(Refusal):
    """A settlement of a call contradicts an earlier part of it: a quantity is smaller, or the model is another one.

    The fact `field` names the unit or the field, `unit` the unit alone.
    """

    kind = Kind.FAILED_PRECONDITION
    reason = "BELOW_EARLIER_PART"
    template = "The operation {operation_id} has {given} as its {field}, but an earlier part of it had {earlier}."
    remedy = "Send what the call has used from its beginning, not since the part before."


class TooManyParts(Refusal):
    """The call has as many parts as one can have; its last settlement can still come."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_PARTS"
    template = "The operation {operation_id} has {parts} parts, which is the maximum."
    remedy = "Send the last settlement."


class AuthorizationNotOpen(Refusal):
    """Nothing is held for the call any more, or nothing ever was: it is not held for longer, nor settled in parts."""

    kind = Kind.FAILED_PRECONDITION
    reason = "AUTHORIZATION_NOT_OPEN"
    template = "The authorization of the operation {operation_id} is {state}."
    remedy = "Settle without parts: the usage is charged without a hold."


class AuthorizationLapsed(Refusal):
    """The usage of the operation was recorded because its settlement had not come, as the organization's policy says.

    The amount is left out while no price is known.
    """

    kind = Kind.FAILED_PRECONDITION
    reason = "AUTHORIZATION_LAPSED"
    template = (
        "The authorization of the operation {operation_id} had lapsed, and its usage was recorded at {record_time} as"
        " {usage_id}."
    )
    remedy = "Nothing needs to be done; settle earlier, or extend the authorization, next time."


class AuthorizationNotHeld(Refusal):
    """Nothing is held for the call, such as for one of a test key, so nothing more can be."""

    kind = Kind.FAILED_PRECONDITION
    reason = "AUTHORIZATION_NOT_HELD"
    template = "Nothing is held for the operation {operation_id}, so nothing more can be held for it."
    remedy = "Nothing needs to be done."


class UsageOfAnother(Refusal):
    """The usage is of another organization than the lease that it is settled with; it is not recorded."""

    kind = Kind.FAILED_PRECONDITION
    reason = "USAGE_OF_ANOTHER"
    template = "The usage {operation_id} is of another organization than the lease {lease_id}."
    remedy = "Settle the usage with a lease of its own organization."


class CounterFull(Refusal):
    """A limit has counted as much as can be counted in its window; nothing was allocated."""

    kind = Kind.FAILED_PRECONDITION
    reason = "COUNTER_FULL"
    template = "The limit {limit} has counted {counted} and cannot count {needed} more."
    remedy = "Wait for the limit's next window."


class InsufficientBalance(Refusal):
    """The account has not enough for a larger hold; it may have later. The facts are billing's."""

    kind = Kind.FAILED_PRECONDITION
    reason = "INSUFFICIENT_BALANCE"
    http_status = 402
    template = "{needed} {currency_code} more is needed and {available} is available ({posted} posted, {held} held)."
    remedy = "Credit the account, or wait until a hold ends, and extend the authorization again."


class SubscriptionNotFound(Refusal):
    """The organization has no subscription of the id that the request names."""

    kind = Kind.NOT_FOUND
    reason = "SUBSCRIPTION_NOT_FOUND"
    template = "The organization has no subscription {subscription_id}."
    remedy = "Check the subscription id and the organization."

    def __init__(self, *, subscription_id: str) -> None:
        super().__init__(field="subscription_id", subscription_id=subscription_id)
        self.resource = ("subscription", subscription_id)


class SubscriptionMismatch(Refusal):
    """The subscription is for another user or model, or the operation was authorized under another one.

    The fact `contradicts` names the field that contradicts it.
    """

    kind = Kind.FAILED_PRECONDITION
    reason = "SUBSCRIPTION_MISMATCH"
    template = "The subscription {subscription_id} is not for the {contradicts} of the request."
    remedy = "Name another subscription, or leave it out."

    def __init__(self, *, subscription_id: str, contradicts: str) -> None:
        super().__init__(field="subscription_id", subscription_id=subscription_id, contradicts=contradicts)

    @property
    def message(self) -> str:
        """The sentence, which says of an operation what is meant."""
        if self.facts["contradicts"] == "operation_id":
            return f"The operation was authorized under another subscription than {self.facts['subscription_id']}."
        return super().message


class SubscriptionNotLive(Refusal):
    """The subscription that a call is to fall under entitles to nothing now."""

    kind = Kind.FAILED_PRECONDITION
    reason = "SUBSCRIPTION_NOT_LIVE"
    template = "The subscription {subscription_id} is not live."
    remedy = "Name a live subscription, or leave it out."

    def __init__(self, *, subscription_id: str) -> None:
        super().__init__(field="subscription_id", subscription_id=subscription_id)


class BackfillForOperatorsOnly(Refusal):
    """Only operators may load historical usage."""

    kind = Kind.PERMISSION_DENIED
    reason = "BACKFILL_FOR_OPERATORS_ONLY"
    template = "Only operators may set backfill."
    remedy = "Have an operator load the usage."


class TooManyUnknownKeys(Refusal):
    """The client's address has presented more unknown keys than identity looks up for one."""

    kind = Kind.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_UNKNOWN_KEYS"
    template = "The address has presented too many unknown keys; try again in {wait_ms} ms."
    remedy = "Stop presenting unknown keys from this address, and wait for the given time."

    def __init__(self, *, wait_ms: int) -> None:
        super().__init__(wait_ms=wait_ms)
        self.retry_after_ms = wait_ms


class ConversationExists(Refusal):
    """A conversation of this id exists, and began with other fields."""

    kind = Kind.ALREADY_EXISTS
    reason = "CONVERSATION_EXISTS"
    template = "The conversation {conversation_id} exists already, with another {field}."
    remedy = "Take another id for another conversation; for a repeat, send what was sent the first time."


class ConversationOfAnother(Refusal):
    """The conversation that the message would begin exists, and belongs to another user or project."""

    kind = Kind.FAILED_PRECONDITION
    reason = "CONVERSATION_OF_ANOTHER"
    template = "The conversation {conversation_id} belongs to another {field}."
    remedy = "Name the user and project that the conversation has, or another conversation."


class ContentNotReadable(Refusal):
    """A content cannot be decrypted: its key is not there, or the content was changed or moved in the database."""

    kind = Kind.FAILED_PRECONDITION
    reason = "CONTENT_NOT_READABLE"
    template = "The content of message {position} of the conversation cannot be decrypted with key {key_version}."
    remedy = "Put the key of this version back into the file of conversation keys, or list without_content."
