"""The refusals of billing, beyond those that every service shares."""

from libs.common.errors import Kind, Refusal, Unauthenticated


class InsufficientBalance(Refusal):
    """A guarded command wants more than is available; final for its operation id."""

    kind = Kind.FAILED_PRECONDITION
    reason = "INSUFFICIENT_BALANCE"
    http_status = 402
    template = "{needed} {currency_code} is needed and {available} is available ({posted} posted, {held} held)."
    remedy = "Credit the account or wait for a hold to end (`earliest_release_time`), and take a new operation id."


class CurrencyMismatch(Refusal):
    """The account is in another currency."""

    kind = Kind.FAILED_PRECONDITION
    reason = "CURRENCY_MISMATCH"
    template = "The account is in {account_currency_code}, not in {currency_code}; open another account first."
    remedy = "Use the account's currency, or open an account in the other one."


class CurrencyRequired(Refusal):
    """The owner has accounts in several currencies and the request names none."""

    kind = Kind.FAILED_PRECONDITION
    reason = "CURRENCY_REQUIRED"
    template = "The owner has accounts in {account_currency_codes}; name one."
    remedy = "Name one of the currencies in `currency_code`."


class AccountClosed(Refusal):
    """The account takes no new work."""

    kind = Kind.FAILED_PRECONDITION
    reason = "ACCOUNT_CLOSED"
    template = "The account {account_id} is closed."
    remedy = "Open a new account."


class AccountNotEmpty(Refusal):
    """An account with money, debt or holds in it cannot be closed."""

    kind = Kind.FAILED_PRECONDITION
    reason = "ACCOUNT_NOT_EMPTY"
    template = "The account still has {posted} {currency_code} posted and {held} held."
    remedy = "Transfer what is left and wait for the holds to end, then close it."


class AccountExists(Refusal):
    """The owner has an open account in this currency."""

    kind = Kind.ALREADY_EXISTS
    reason = "ACCOUNT_EXISTS"
    template = "The owner has the account {account_id} in {currency_code} already."
    remedy = "Use the account that is there."


class AccountNotFound(Refusal):
    """There is no such account, or it belongs to another organization."""

    kind = Kind.NOT_FOUND
    reason = "ACCOUNT_NOT_FOUND"
    template = "There is no such account."
    remedy = "Check the account id and the organization."


class HoldNotFound(Refusal):
    """No hold was ever placed under this operation id."""

    kind = Kind.NOT_FOUND
    reason = "HOLD_NOT_FOUND"
    template = "There is no hold of the operation {operation_id}."
    remedy = "Check the operation id; without a hold, debit the account."


class HoldEnded(Refusal):
    """The hold was captured, released or has expired."""

    kind = Kind.FAILED_PRECONDITION
    reason = "HOLD_ENDED"
    template = "The hold of the operation {operation_id} has ended: it is {state}."
    remedy = "Nothing needs to be done after a capture; to charge work that is done, debit with MUST_POST."


class TransactionNotFound(Refusal):
    """There is no such transaction, or it belongs to another organization."""

    kind = Kind.NOT_FOUND
    reason = "TRANSACTION_NOT_FOUND"
    template = "There is no such transaction."
    remedy = "Check the transaction id and the organization."


class ReversalExceedsTransaction(Refusal):
    """Less of the transaction is left to undo."""

    kind = Kind.FAILED_PRECONDITION
    reason = "REVERSAL_EXCEEDS_TRANSACTION"
    template = "Only {remaining} of the transaction is left to reverse."
    remedy = "Reverse at most what is left."


class ReversalOfReversal(Refusal):
    """A reversal is final."""

    kind = Kind.FAILED_PRECONDITION
    reason = "REVERSAL_OF_REVERSAL"
    template = "The transaction {transaction_id} is a reversal itself."
    remedy = "Post the original movement again, as a new operation."


class BalanceOutOfRange(Refusal):
    """The balance would leave the range that amounts can be written in."""

    kind = Kind.OUT_OF_RANGE
    reason = "BALANCE_OUT_OF_RANGE"
    template = "The balance would be beyond the largest amount that can be stored."
    remedy = "Check the amount."


class ReversalOfGrant(Refusal):
    """What belongs to a grant is taken back by voiding the grant."""

    kind = Kind.FAILED_PRECONDITION
    reason = "REVERSAL_OF_GRANT"
    template = "The transaction {transaction_id} belongs to a credit grant: void the grant instead."
    remedy = "Void the grant with VoidGrant."


class GrantNotFound(Refusal):
    """There is no such grant, or it belongs to another organization."""

    kind = Kind.NOT_FOUND
    reason = "GRANT_NOT_FOUND"
    template = "There is no such grant."
    remedy = "Check the grant id and the organization."


class GrantEnded(Refusal):
    """Nothing is left of the grant."""

    kind = Kind.FAILED_PRECONDITION
    reason = "GRANT_ENDED"
    template = "Nothing is left of the grant {grant_id}."
    remedy = "Nothing needs to be done; grant anew if credits are missing."


class GrantExpired(Refusal):
    """The grant would have expired before it is made."""

    kind = Kind.INVALID_ARGUMENT
    reason = "GRANT_EXPIRED"
    template = "The expire_time {expire_time} has passed."
    remedy = "Send an expire_time in the future."


class TooManyGrants(Refusal):
    """The account has as many grants as it can have."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_GRANTS"
    template = "The account has {grants} grants that have not ended."
    remedy = "Void grants that are not needed, or wait until some end."


class ExpiringCreditsStay(Refusal):
    """Credits that expire cannot be passed on."""

    kind = Kind.FAILED_PRECONDITION
    reason = "EXPIRING_CREDITS_STAY"
    template = "{expiring} of what is available expires and cannot be passed on; {transferable} can."
    remedy = "Transfer at most what does not expire."


class AccountHasGrants(Refusal):
    """An account with grants that will begin or expire cannot be closed."""

    kind = Kind.FAILED_PRECONDITION
    reason = "ACCOUNT_HAS_GRANTS"
    template = "The account has credit grants that have not ended: void them first."
    remedy = "Void the grants first."


class NotACharge(Refusal):
    """The transaction is neither a charge nor the reversal of one."""

    kind = Kind.FAILED_PRECONDITION
    reason = "NOT_A_CHARGE"
    template = "The transaction {transaction_id} is a {transaction_kind}, not a charge."
    remedy = "Name a charge or the reversal of one."


class PlanExists(Refusal):
    """A plan of this code exists, perhaps archived; it was added by another request, or came with Tollhouse."""

    kind = Kind.ALREADY_EXISTS
    reason = "PLAN_EXISTS"
    template = "The plan {plan_code} exists already."
    remedy = "Take another code, or make a new version of the plan."


class TooManyPlans(Refusal):
    """The number of plans is limited."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_PLANS"
    template = "There are {plans} plans, archived ones included, which is the maximum."
    remedy = "Make new versions of the plans that exist."


class TooManyPlanVersions(Refusal):
    """The number of versions of a plan is limited."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_PLAN_VERSIONS"
    template = "The plan {plan_code} has {versions} versions, which is the maximum; add another plan instead."
    remedy = "Create another plan."


class PlanArchived(Refusal):
    """An archived plan is not changed any more."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PLAN_ARCHIVED"
    template = "The plan {plan_code} is archived."
    remedy = "Use another plan."


class PlanVersionArchived(Refusal):
    """The version was replaced by a later one; it is not published a second time."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PLAN_VERSION_ARCHIVED"
    template = "Version {version} of the plan {plan_code} was replaced by a later one."
    remedy = "Make and publish a new version."


class FallbackPlanUnusable(Refusal):
    """Since the draft was made, the plan to which unpaid subscriptions go has become one they cannot go to."""

    kind = Kind.FAILED_PRECONDITION
    reason = "FALLBACK_PLAN_UNUSABLE"
    template = "The fallback plan {fallback_plan_code} {problem}."
    remedy = "Set another fallback plan in the draft."


class ProviderReferenceTaken(Refusal):
    """Another plan, or another subscription of the organization, has the reference; a provider's id stands for one."""

    kind = Kind.ALREADY_EXISTS
    reason = "PROVIDER_REFERENCE_TAKEN"
    template = "The {kind} {external_id} of {provider} is that of another {resource_type}."
    remedy = "Check the provider's id; remove it from the other resource if it is wrong there."


class TooManyOverrides(Refusal):
    """The number of an organization's entitlement overrides is limited."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_OVERRIDES"
    template = "The organization has {overrides} entitlement overrides, which is the maximum."
    remedy = "Remove overrides that are not needed."


class InactivePlansForOperatorsOnly(Refusal):
    """Users see the plans that are offered."""

    kind = Kind.PERMISSION_DENIED
    reason = "INACTIVE_PLANS_FOR_OPERATORS_ONLY"
    template = "Only operators and services may set include_inactive."
    remedy = "Leave include_inactive out."


class ExperimentRunning(Refusal):
    """The variants of an experiment are fixed, since its subjects keep theirs."""

    kind = Kind.FAILED_PRECONDITION
    reason = "EXPERIMENT_RUNNING"
    template = "An experiment with other variants runs on the plan {plan_code}: end it first."
    remedy = "End the running experiment first."


class PlanInExperiment(Refusal):
    """While an experiment runs, its plans cannot be archived, nor be part of another experiment."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PLAN_IN_EXPERIMENT"
    template = "The plan {plan_code} is part of the experiment {experiment_id}: end that first."
    remedy = "End the experiment first."


class PlanNotPublished(Refusal):
    """A draft cannot be subscribed to."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PLAN_NOT_PUBLISHED"
    template = "The plan {plan_code} has no published version."
    remedy = "Publish a version of the plan first."


class SubscriptionExists(Refusal):
    """There is at most one live subscription of an organization, of a user in it, and of a user to a model."""

    kind = Kind.ALREADY_EXISTS
    reason = "SUBSCRIPTION_EXISTS"
    template = "There is the live subscription {subscription_id} already."
    remedy = "Change the subscription that is there, or cancel it first."


class TrialUsed(Refusal):
    """A subject has one trial."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TRIAL_USED"
    template = "The subscription {subscription_id} had a trial; set skip_trial to subscribe without one."
    remedy = "Set skip_trial."


class SamePlan(Refusal):
    """A change to what there is."""

    kind = Kind.FAILED_PRECONDITION
    reason = "SAME_PLAN"
    template = "The subscription has version {version} of the plan {plan_code} already."
    remedy = "Nothing needs to be done."


class MinimumOfOrganization(Refusal):
    """Charges do not say for whom they are, so that a minimum can only be that of a whole organization."""

    kind = Kind.FAILED_PRECONDITION
    reason = "MINIMUM_OF_ORGANIZATION"
    template = "The plan {plan_code} has a minimum spend, which only a subscription of an organization can have."
    remedy = "Subscribe the organization to the plan, or take a plan without a minimum."


class SubscriptionWithoutPlan(Refusal):
    """A subscription to a model without a plan has none that could be changed."""

    kind = Kind.FAILED_PRECONDITION
    reason = "SUBSCRIPTION_WITHOUT_PLAN"
    template = "The subscription is to a model, without a plan; subscribe again to take one."
    remedy = "Cancel the subscription, and subscribe with a plan."


class SubscriptionNotPending(Refusal):
    """Only what waits for an approval can be approved or rejected."""

    kind = Kind.FAILED_PRECONDITION
    reason = "SUBSCRIPTION_NOT_PENDING"
    template = "The subscription does not wait for an approval: it is {state}."
    remedy = "Nothing needs to be done; read the subscription for its state."


class SubscriptionState(Refusal):
    """The state of the subscription does not allow the change."""

    kind = Kind.FAILED_PRECONDITION
    reason = "SUBSCRIPTION_STATE"
    template = "A subscription that is {state} cannot be {change}."
    remedy = "Read the subscription; docs/plans.md has the changes that each state allows."


class SubscriptionEnded(Refusal):
    """What has ended is not changed any more."""

    kind = Kind.FAILED_PRECONDITION
    reason = "SUBSCRIPTION_ENDED"
    template = "The subscription has ended: it is {state}."
    remedy = "Create a new subscription."


class NotForSelfService(Refusal):
    """The platform leaves this to its operators and services."""

    kind = Kind.PERMISSION_DENIED
    reason = "NOT_FOR_SELF_SERVICE"
    template = "{what} is not offered for self-service."
    remedy = "Have an operator or a service of the platform make the call."


class OtherCurrency(Refusal):
    """What was paid of a period cannot be given back against a price in another currency."""

    kind = Kind.FAILED_PRECONDITION
    reason = "OTHER_CURRENCY"
    template = "The plan is priced in {plan_currency_code} and the period was in {currency_code}: change at its end."
    remedy = "Change the plan at the end of the period."


class SubscriptionSetAside(Refusal):
    """What was due for the subscription could not be done, and an operator must look at it first."""

    kind = Kind.FAILED_PRECONDITION
    reason = "SUBSCRIPTION_SET_ASIDE"
    template = "The subscription was set aside: {set_aside_reason}."
    remedy = "Have an operator mend the cause, then ResumeSubscription or RetryPayment."


class RenewedByProvider(Refusal):
    """A provider renews the subscription, and would go on charging for it as it is."""

    kind = Kind.FAILED_PRECONDITION
    reason = "RENEWED_BY_PROVIDER"
    template = "The subscription is renewed by {provider}, so it cannot be {change} here."
    remedy = "Change it at the provider, such as on its page for customers; or cancel it, and buy the other plan."


class PeriodNotPaid(Refusal):
    """The provider that renews the subscription has told of no payment for what it owes."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PERIOD_NOT_PAID"
    template = "{provider} has told of no payment for it."
    remedy = "Pay at the provider, such as on its page for customers. The payment is used as soon as it is told."


class WebhookSignatureRefused(Unauthenticated):
    """A webhook was not signed by its provider with a secret that is in force, or too long ago."""

    reason = "WEBHOOK_SIGNATURE_REFUSED"
    template = "The signature of the webhook is missing, wrong or too old."
    remedy = (
        "Set the secret of the provider's endpoint; pass the body on byte by byte, and the header of the signature."
    )


class WebhookIdReused(Refusal):
    """A webhook has the id of an event that said something else."""

    kind = Kind.ALREADY_EXISTS
    reason = "WEBHOOK_ID_REUSED"
    template = "An event with this id came before and said something else."
    remedy = "Nothing was changed. Look at the event at the provider; somebody else may know the secret."


class WebhookNotWaiting(Refusal):
    """The webhook was applied, so that there is nothing to try again."""

    kind = Kind.FAILED_PRECONDITION
    reason = "WEBHOOK_NOT_WAITING"
    template = "The webhook was applied already."
    remedy = "Nothing needs to be done."
