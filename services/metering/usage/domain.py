"""One usage: what was done, what it costs, and the state of its charge."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Final, NamedTuple

from libs.common.amount import format_amount
from libs.common.errors import FieldViolation, OperationIdReused
from services.metering.clients.billing import CAPTURE, DEBIT, AccountBalance, Charge, Charged, NotCharged
from services.metering.errors import AuthorizationLapsed
from services.metering.model.domain import PriceVersion, Rated, Tokens, format_nanos
from services.metering.model.rates import STANDARD_TIER
from services.metering.model.units import Quantities
from services.metering.quota.decisions import Place, Standing
from services.metering.quota.domain import NOTHING_RESERVED, Reservations
from services.metering.usage.dimensions import LABELS, LIVE, PLAIN, TEST, Dimensions

PENDING: Final = "PENDING"
SETTLED: Final = "SETTLED"
PENDING_PRICE: Final = "PENDING_PRICE"
REFUSED: Final = "REFUSED"

LATE_MAX: Final = timedelta(days=35)
EARLY_MAX: Final = timedelta(minutes=5)
LIMITS_TOLD_MAX: Final = 5_000
"""The most states of limits in the answer to a batch, which would be too large otherwise."""


LAPSED: Final = b"lapsed"
"""The fingerprint of usage that was recorded because no settlement had come. No request has it."""

NO_QUANTITIES: Final[Quantities] = MappingProxyType({})


class Stated(NamedTuple):
    """An amount that the caller states."""

    amount: str
    currency_code: str


class Work(NamedTuple):
    """What a caller reports as used. A tuple, because hundreds of thousands are created and turned into columns."""

    organization_id: str
    operation_id: str
    fingerprint: bytes
    occur_time: datetime
    project_id: str | None
    user_id: str | None
    api_key_id: str | None
    subscription_id: str | None
    model: str
    tokens: Tokens
    latency_ms: int | None
    status_code: int | None
    error_message: str | None
    endpoint: str | None
    conversation_id: str | None
    labels: str | None
    """The labels as JSON with sorted keys."""
    partial: bool
    settles: bool
    """Whether an authorization of the same operation id is looked for."""
    adjusted: tuple[str, ...]
    """The fields of the request that are not recorded as they were sent. Not stored."""
    quantities: Quantities = NO_QUANTITIES
    """What is used beside the tokens, in thousandths by unit; none is zero."""
    service_tier: str | None = None
    """None where the caller gave none."""
    service_account_id: str | None = None
    items: int | None = None
    stated: Stated | None = None
    """What the caller says it costs."""
    environment: str = LIVE
    corrects_operation_id: str | None = None
    """The dropped usage that it corrects. Stored beside it."""


class Cost(NamedTuple):
    """What work costs, and how billing is asked for it."""

    amount: str
    currency_code: str
    price_version_id: str | None
    """None where the caller stated the amount."""
    charge_kind: str | None
    """None where there is nothing to charge and nothing to release."""
    provider_cost: str | None = None
    provider_currency_code: str | None = None
    rate_hours: str | None = None
    """The name of the card's hours whose rates hold; None at other times, and for a card without hours."""


class Captured(NamedTuple):
    """What the parts of a call have captured."""

    amount: str
    currency_code: str
    """Empty while no part had a price, and in lists."""


class Counts(NamedTuple):
    """What usage counts in limits."""

    counter_ids: tuple[str, ...]
    """The counters in which it counts something. Usage of one caller in the same windows shares them."""
    values: tuple[Decimal, ...]
    """How much in each of them."""
    reservations: Reservations
    """What its authorization has reserved, which is taken back with it."""
    places: Mapping[tuple[str, str], Place]
    """Where the limits count that it is counted in, by organization and counter, as far as they are known. Usage that
    is recorded together shares them."""

    @property
    def amounts(self) -> Mapping[str, Decimal]:
        """How much in each counter, by its id."""
        return dict(zip(self.counter_ids, self.values, strict=True))


class LimitState(NamedTuple):
    """Where a limit stands after usage. Usage that is recorded together shares one for each counter."""

    place: Place
    standing: Standing


class Recorded(NamedTuple):
    """Usage that is durable; or a part of it, which has no usage id."""

    work: Work
    usage_id: str
    cost: Cost | None
    """None while no price is known."""
    create_time: datetime
    settlement: str
    refusal_reason: str = ""
    """Why billing refuses the charge; empty unless the settlement is REFUSED."""
    dimensions: Dimensions = PLAIN
    """With the provider as the catalogue said when the usage was recorded."""
    captured_before: Captured | None = None
    """What parts had captured before the usage was recorded; None for a call without parts."""
    lease_id: str | None = None
    """The lease that it is settled with; None for other usage."""
    counts: Counts | None = None
    """None where no limit counts it, and for usage that was read back."""

    @property
    def charged_amount(self) -> str:
        """What is charged for the usage itself: its cost, less what parts had captured."""
        amount = self.cost.amount if self.cost is not None else "0"
        if self.captured_before is None or self.captured_before.amount == "0":
            return amount
        return format_amount(Decimal(amount) - Decimal(self.captured_before.amount))

    @property
    def captured(self) -> Captured | None:
        """What is captured of a call that is settled in parts, with its last settlement; None for other calls."""
        if self.captured_before is None or self.cost is None or self.cost.charge_kind is None:
            return self.captured_before
        return Captured(self.cost.amount, self.cost.currency_code)


class Accepted(NamedTuple):
    """The usage is recorded, now or before."""

    recorded: Recorded
    replayed: bool
    balance: AccountBalance | None = None
    released: str | None = None
    overrun: str | None = None
    limits: Sequence[LimitState] = ()
    """The limits that the usage is counted in, after it; none for repeats."""


Outcome = Accepted | Exception
"""The result of recording a work: accepted, refused, or failed by an error of this service."""


class Authorization(NamedTuple):
    """What Authorize decided before the work. Settle charges by it."""

    organization_id: str
    operation_id: str
    project_id: str | None
    user_id: str | None
    api_key_id: str | None
    model: str
    endpoint: str | None
    price_version_id: str
    currency_code: str
    amount: Decimal
    service_account_id: str | None
    service_tier: str
    environment: str
    subscription_id: str | None
    """The subscription that the call falls under, whatever has become of it."""
    reservations: Reservations = NOTHING_RESERVED
    """What is reserved of limits. Settle replaces it by what was used. A call is counted in what was in force when it
    was authorized, and in nothing else: without reservations its usage is in no limit."""


def time_violation(occur_time: datetime, now: datetime, *, backfilled: bool) -> FieldViolation | None:
    """Return what is wrong with the time of usage that is not recorded yet; None if it may be recorded."""
    if occur_time > now + EARLY_MAX:
        return FieldViolation("occur_time", "must be at most 5 minutes ahead")
    if occur_time < now - LATE_MAX and not backfilled:
        return FieldViolation("occur_time", "must be at most 35 days ago")
    return None


def charge_kind(*, costs: bool, is_held: bool, environment: str) -> str | None:
    """Return how to charge work; not at all for tests. A hold is captured even for zero, which releases it."""
    if environment == TEST:
        return None
    if is_held:
        return CAPTURE
    return DEBIT if costs else None


def kind_in_lease(cost: Cost, held_currency_code: str) -> Cost:
    """Return the cost of usage that is settled with a lease: it captures a part of what that holds in its currency.

    `held_currency_code` is empty where the lease holds no money.
    """
    if cost.charge_kind != DEBIT or cost.currency_code != held_currency_code:
        return cost
    return cost._replace(charge_kind=CAPTURE)


def charge_of(recorded: Recorded) -> Charge | None:
    """Return what billing is asked for; None where nothing is charged."""
    work, cost = recorded.work, recorded.cost
    if cost is None or cost.charge_kind is None:
        return None
    return Charge(
        work.organization_id,
        work.operation_id,
        cost.charge_kind,
        recorded.charged_amount,
        cost.currency_code,
        work.project_id,
        work.model,
        recorded.lease_id if cost.charge_kind == CAPTURE else None,
        work.user_id,
    )


def is_above(amount: str, before: Captured | None) -> bool:
    """Tell whether something is left to charge of an amount after what parts captured before."""
    return amount != "0" if before is None else Decimal(amount) > Decimal(before.amount)


def is_below(cost: Cost, before: Captured | None) -> bool:
    """Tell whether parts captured what the cost does not cover, so that the usage cannot be charged by it.

    This happens only where a unit had no rate when the call ended, and the price that was set for it later is lower
    than the one that the call was authorized with, or in another currency.
    """
    if before is None or before.amount == "0":
        return False
    return cost.currency_code != before.currency_code or Decimal(cost.amount) < Decimal(before.amount)


def rated_cost(rated: Rated, version: PriceVersion, kind: str | None) -> Cost:
    """Return the cost of what was priced with a version, and is charged in this way."""
    card = version.card
    amount = format_nanos(rated.amount_nanos)
    provider_cost = provider_currency_code = None
    if rated.provider_cost_nanos is not None:
        provider_cost, provider_currency_code = format_nanos(rated.provider_cost_nanos), card.provider_currency_code
    return Cost(
        amount,
        card.currency_code,
        version.price_version_id,
        kind,
        provider_cost,
        provider_currency_code,
        rated.hours or None,
    )


def completed(work: Work, authorization: Authorization) -> Work:
    """Return the work with what the caller left out taken from its authorization."""
    return work._replace(
        project_id=work.project_id or authorization.project_id,
        user_id=work.user_id or authorization.user_id,
        api_key_id=work.api_key_id or authorization.api_key_id,
        subscription_id=work.subscription_id or authorization.subscription_id,
        endpoint=work.endpoint or authorization.endpoint,
        service_account_id=work.service_account_id or authorization.service_account_id,
        service_tier=work.service_tier or authorization.service_tier,
        environment=authorization.environment,
    )


def dimensions_of(work: Work, provider: str) -> Dimensions:
    """Return the further dimensions of a work."""
    labels: Sequence[str] = ()
    if work.labels is not None and any(f'"{name}":' in work.labels for name in LABELS):
        given = json.loads(work.labels)
        labels = [given.get(name, "") for name in LABELS]
    return Dimensions(
        work.service_account_id or "",
        work.subscription_id or "",
        provider,
        work.service_tier or STANDARD_TIER,
        work.environment,
        work.endpoint or "",
        *labels,
    )


def limits_to_tell(outcomes: Sequence[Outcome]) -> list[Sequence[LimitState]]:
    """Return the limits to tell with each outcome of a batch: each once for each that it limits, with the last usage.

    All usage of a batch is counted together, so only then the numbers are those after the usage.
    """
    told: set[str] = set()
    lists: set[int] = set()
    limits: list[Sequence[LimitState]] = [()] * len(outcomes)
    for place in reversed(range(len(outcomes))):
        outcome = outcomes[place]
        if isinstance(outcome, Accepted) and outcome.limits and id(outcome.limits) not in lists:
            lists.add(id(outcome.limits))
            untold = [one for one in outcome.limits if one.place.counter.counter_id not in told]
            if untold:
                limits[place] = untold = untold[: LIMITS_TOLD_MAX - len(told)]
                told.update(one.place.counter.counter_id for one in untold)
    return limits


def differing_field(before: Work, now: Work) -> str:
    """Name the first field in which two usages of one operation id differ.

    The subscription comes after what was sent, since another one may have been found for usage that names none.
    """
    for field in Work._fields:
        if field in ("fingerprint", "settles", "occur_time", "adjusted", "subscription_id"):
            continue
        if getattr(before, field) != getattr(now, field):
            return field
    if before.subscription_id != now.subscription_id:
        return "subscription_id"
    if before.occur_time == now.occur_time and now.adjusted:
        return now.adjusted[0]  # They differ in what was not stored of it.
    return "occur_time"


def charged(recorded: Recorded, result: Charged | NotCharged, limits: Sequence[LimitState] = ()) -> Accepted:
    """Return the answer to what was recorded, with what became of its charge and the limits it is counted in."""
    if isinstance(result, Charged):
        balance = result.balance if result.balance.posted else None
        settled = recorded._replace(settlement=SETTLED)
        return Accepted(settled, False, balance, result.released, result.overrun, limits)
    if result.final:
        recorded = recorded._replace(settlement=REFUSED, refusal_reason=result.reason)
    return Accepted(recorded, replayed=False, limits=limits)


def lapsed(recorded: Recorded) -> AuthorizationLapsed:
    """Return the refusal of a settlement that comes after usage was recorded because none had come."""
    cost = recorded.cost
    return AuthorizationLapsed(
        operation_id=recorded.work.operation_id,
        usage_id=recorded.usage_id,
        record_time=recorded.create_time,
        amount=None if cost is None else cost.amount,
        currency_code=None if cost is None else cost.currency_code,
    )


def repeat_of(before: Recorded, fingerprint: bytes, work: Work) -> Outcome:
    """Return the answer to work whose operation id has usage already, which was recorded with this fingerprint."""
    if fingerprint == work.fingerprint:
        return Accepted(before, replayed=True)
    if fingerprint == LAPSED:
        return lapsed(before)
    return OperationIdReused(operation_id=work.operation_id, field=differing_field(before.work, work))


def month_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
