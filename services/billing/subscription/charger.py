"""What subscriptions need of the ledger: the `Charger` that takes what they cost, and the commands of their events.

The `Charger` is `services.billing.recurring.charger.CollectingCharger`. It is asked before anything that depends on the
payment is done. It may be asked again for the same event after a crash, and then must take nothing twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol, TypeAlias

from libs.common.errors import Refusal
from services.billing import errors, payment_errors
from services.billing.ledger.domain import Credit, Debit, Decline, GrantCredits, Mode, SystemAccount
from services.billing.ledger.engine import Answer
from services.billing.ledger.refills import Rollover, refill
from services.billing.ledger.rendering import refusal_of
from services.billing.subscription.domain import Event, Refill, Subscription
from services.billing.subscription.states import EventKind
from services.billing.subscription.steps import source_reference

Charged: TypeAlias = Exception | None
"""None where it was paid, or given back. A refusal of `REFUSED` where the customer does not have it; any other
exception where it is not known, or could not be done."""
REFUSED: Final = (
    errors.InsufficientBalance,
    errors.CurrencyMismatch,
    errors.PeriodNotPaid,
    payment_errors.PaymentProviderDeclined,
    payment_errors.NoSavedMethod,
)
"""An organization without an account in the currency has nothing in it."""
_ANY_LENGTH: Final = timedelta(days=1)
"""Credits that roll over do not end with the period, so its length does not matter to the ledger."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is to be taken, or given back: the charge of an event, and the subscription after it."""

    event: Event
    subscription: Subscription


class Charger(Protocol):
    """Takes what events cost, and gives back what they return."""

    async def charge(self, demands: Sequence[Demand]) -> Sequence[Charged]:
        """Charge events that cost something, each under its `charge_operation_id`; return what came of each.

        Raises:
            Overloaded: nothing was done.
        """


def movement(event: Event, mode: Mode = Mode.GUARDED) -> Debit | Credit:
    """Return the command that moves the charge of an event."""
    assert event.charge is not None
    assert event.charge_operation_id is not None
    currency_code, value = event.charge.currency_code, event.charge.value
    if value < 0:
        return Credit(
            organization_id=event.organization_id,
            operation_id=event.charge_operation_id,
            project_id=None,
            currency_code=currency_code,
            amount=-value,
            source=SystemAccount.ADJUSTMENTS,
            description=_description(event),
            metadata=None,
            actor=event.actor,
        )
    # A minimum is of a time that is over, like usage: what the account does not have is a debt.
    is_minimum = event.kind is EventKind.MINIMUM_CHARGED
    return Debit(
        organization_id=event.organization_id,
        operation_id=event.charge_operation_id,
        project_id=None,
        currency_code=currency_code,
        amount=value,
        mode=Mode.MUST_POST if is_minimum else mode,
        description=_description(event),
        metadata=None,
        actor=event.actor,
        opens_account=is_minimum,
    )


def charged(answer: Answer) -> Charged:
    """Return what came of a charge."""
    if isinstance(answer, Decline):
        return refusal_of(answer)
    return answer if isinstance(answer, Exception) else None


def refills_of(subscription: Subscription, event: Event) -> list[GrantCredits]:
    """Return the commands that grant the credits of an event, to the user and model of the subscription."""
    return [
        refill(
            organization_id=event.organization_id,
            operation_id=one.operation_id,
            currency_code=one.amount.currency_code,
            amount=one.amount.value,
            priority=one.priority,
            period_start=one.effective_time,
            period_end=one.expire_time or one.effective_time + _ANY_LENGTH,
            rollover=_rollover(one),
            rollover_max=one.kept_at_most,
            source_reference=source_reference(subscription),
            user_id=subscription.user_id,
            model=subscription.model,
            description=_description(event),
            actor=event.actor,
        )
        for one in event.refills
    ]


def _rollover(one: Refill) -> Rollover:
    if one.expire_time is not None:
        return Rollover.NONE
    return Rollover.ALL if one.kept_at_most is None else Rollover.UP_TO


def is_passing(error: BaseException) -> bool:
    """Return whether what failed may succeed when it is done again."""
    return isinstance(error, Refusal) and error.kind.value in ("UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED")


def _description(event: Event) -> str:
    return f"plan {event.plan.plan_code}: {event.reason}" if event.plan is not None else event.reason
