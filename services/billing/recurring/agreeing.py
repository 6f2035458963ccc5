"""What follows where a provider says one thing of a subscription that it renews, and ours is another. Pure rules."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from services.billing.payment.provider import ExternalSubscriptionStatus, Renewal
from services.billing.recurring.store import External
from services.billing.subscription.domain import Subscription, Way
from services.billing.subscription.paid_changes import provider_of
from services.billing.subscription.states import EventKind, State, may_happen


class Wanted(StrEnum):
    """What is to become of our subscription."""

    PAY = "PAY"
    """The next period begins, whether it is paid or not."""
    PAUSE = "PAUSE"
    RESUME = "RESUME"
    SCHEDULE = "SCHEDULE"
    """It is cancelled when its period ends."""
    WITHDRAW = "WITHDRAW"
    """That is taken back."""
    CANCEL = "CANCEL"
    EXPIRE = "EXPIRE"


@dataclass(frozen=True, slots=True)
class Here:
    """Our subscription, and what happened to it."""

    subscription: Subscription
    is_current: bool
    """Whether the provider's subscription is the last one that ours was linked to."""
    changed: tuple[str, str, datetime] | None
    """What was last said here of whether it goes on after its period: the kind of event, who said so, and when."""
    paused_by: str | None


def wanted(external: External, here: Here, now: datetime) -> Wanted | Renewal | None:
    """Return what is to become of ours, or what the provider is to be told; None where both agree.

    Ours ends or goes on as was decided here, and the provider is told. What the provider says is followed otherwise.
    """
    s, status = here.subscription, external.status
    has_ended = status in (ExternalSubscriptionStatus.CANCELLED, ExternalSubscriptionStatus.EXPIRED)
    if not s.is_live or s.collection is not Way.PROVIDER or not here.is_current:
        return None if has_ended else Renewal.ENDED
    kind, actor, time = here.changed or ("", "", None)
    by_provider = provider_of(actor) is not None
    if s.cancel_at_period_end and not has_ended:
        # A cancellation of the provider's was taken back there; one of ours it does not know yet.
        return Wanted.WITHDRAW if by_provider else Renewal.ENDS_WITH_PERIOD
    is_withdrawn = kind == EventKind.CANCELLATION_WITHDRAWN and not by_provider
    if status is ExternalSubscriptionStatus.CANCELLED and is_withdrawn and time and time > external.version_time:
        return Renewal.RENEWS
    return _followed(external, here, now)


def _followed(external: External, here: Here, now: datetime) -> Wanted | None:
    s, status = here.subscription, external.status
    if status is ExternalSubscriptionStatus.EXPIRED:
        return Wanted.EXPIRE
    is_cancelled = status is ExternalSubscriptionStatus.CANCELLED
    if is_cancelled and (external.ends_time is None or external.ends_time <= now):
        return Wanted.CANCEL
    if status is ExternalSubscriptionStatus.PAUSED:
        return Wanted.PAUSE if may_happen(EventKind.PAUSED, s.state) else None
    if s.state is State.PAUSED and here.paused_by is not None and provider_of(here.paused_by) is not None:
        # What comes next is the same then as if the pause had never been told.
        return Wanted.RESUME
    if is_cancelled:
        is_possible = may_happen(EventKind.CANCELLATION_SCHEDULED, s.state)
        return Wanted.SCHEDULE if is_possible and not s.cancel_at_period_end else None
    if status is ExternalSubscriptionStatus.PAST_DUE:
        is_over = s.awaited_until is not None and s.period_end_time is not None and s.period_end_time <= now
        return Wanted.PAY if is_over else None
    return None
