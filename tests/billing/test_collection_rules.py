"""The rules of subscriptions that providers collect, without a database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.billing.payment.provider import ExternalSubscriptionStatus as Status
from services.billing.payment.provider import Renewal
from services.billing.recurring.agreeing import Here, Wanted, wanted
from services.billing.recurring.store import External
from services.billing.subscription.domain import PAYMENT_AWAITED_FOR, Subject, Way, due_time_of
from services.billing.subscription.states import State
from services.billing.subscription.steps import next_step
from tests.billing.period_house import terms
from tests.billing.subscriptions import agreement, subscription

_START = datetime(2026, 3, 1, tzinfo=UTC)
_END = datetime(2026, 4, 1, tzinfo=UTC)
_NOW = datetime(2026, 3, 15, tzinfo=UTC)
_OURS = replace(
    subscription(Subject.ORGANIZATION, start_time=_START, period=(_START, _END)),
    collection=Way.PROVIDER,
    collection_provider="stripe",
)
_SCHEDULED = replace(_OURS, cancel_at_period_end=True)
_PAUSED = replace(_OURS, state=State.PAUSED)
_ENDED = replace(_OURS, state=State.CANCELLED)
_ANOTHER_WAY = replace(_OURS, collection=Way.BALANCE, collection_provider=None)
_BY_US, _BY_THEM = "operator:ada", "provider:stripe"


def external(status: Status, ends: datetime | None = None) -> External:
    return External(_OURS.organization_id, "stripe", "sub_1", "first", status, ends, _NOW, _OURS.subscription_id)


@pytest.mark.parametrize(
    ("ours", "status", "changed", "paused_by", "follows"),
    [
        (_OURS, Status.ACTIVE, None, None, None),
        (_OURS, Status.PAST_DUE, None, None, None),
        (_OURS, Status.PAUSED, None, None, Wanted.PAUSE),
        (_OURS, Status.CANCELLED, None, None, Wanted.SCHEDULE),
        (_OURS, Status.EXPIRED, None, None, Wanted.EXPIRE),
        (_PAUSED, Status.PAUSED, None, _BY_THEM, None),
        (_PAUSED, Status.ACTIVE, None, _BY_THEM, Wanted.RESUME),
        (_PAUSED, Status.CANCELLED, None, _BY_THEM, Wanted.RESUME),
        (_PAUSED, Status.ACTIVE, None, _BY_US, None),
        (_SCHEDULED, Status.ACTIVE, ("CANCELLATION_SCHEDULED", _BY_US, _NOW), None, Renewal.ENDS_WITH_PERIOD),
        (_SCHEDULED, Status.ACTIVE, ("CANCELLATION_SCHEDULED", _BY_THEM, _NOW), None, Wanted.WITHDRAW),
        (_SCHEDULED, Status.CANCELLED, ("CANCELLATION_SCHEDULED", _BY_US, _NOW), None, None),
        (_OURS, Status.CANCELLED, ("CANCELLATION_WITHDRAWN", _BY_US, _END), None, Renewal.RENEWS),
        (_OURS, Status.CANCELLED, ("CANCELLATION_WITHDRAWN", _BY_US, _START), None, Wanted.SCHEDULE),
        (_OURS, Status.CANCELLED, ("CANCELLATION_WITHDRAWN", _BY_THEM, _END), None, Wanted.SCHEDULE),
        (_ENDED, Status.ACTIVE, None, None, Renewal.ENDED),
        (_ENDED, Status.CANCELLED, None, None, None),
        (_ANOTHER_WAY, Status.PAST_DUE, None, None, Renewal.ENDED),
    ],
)
def test_decisions_made_here_are_told_and_those_of_the_provider_are_followed(
    ours: object, status: Status, changed: object, paused_by: str | None, follows: object
) -> None:
    here = Here(ours, is_current=True, changed=changed, paused_by=paused_by)  # type: ignore[arg-type]
    assert wanted(external(status, _END), here, _NOW) is follows


def test_cancellation_whose_time_has_come_ends_and_an_old_subscription_of_the_provider_is_ended() -> None:
    here = Here(_OURS, is_current=True, changed=None, paused_by=None)
    for ends in (None, _NOW, _NOW - timedelta(days=1)):
        assert wanted(external(Status.CANCELLED, ends), here, _NOW) is Wanted.CANCEL
    assert wanted(external(Status.ACTIVE), replace(here, is_current=False), _NOW) is Renewal.ENDED


def test_failed_payment_counts_once_the_period_is_over() -> None:
    here = Here(_OURS, is_current=True, changed=None, paused_by=None)
    assert wanted(external(Status.PAST_DUE), here, _END) is Wanted.PAY
    late = replace(here, subscription=replace(_OURS, state=State.PAST_DUE))
    assert wanted(external(Status.PAST_DUE), late, _END) is None


def test_end_of_a_period_waits_for_the_providers_payment_and_the_next_begins_where_it_ended() -> None:
    assert due_time_of(_OURS) == _END + PAYMENT_AWAITED_FOR
    assert due_time_of(_OURS, awaits=False) == due_time_of(_SCHEDULED) == due_time_of(_PAUSED) == _END
    of = replace(agreement(_OURS, ()), terms=terms(10))
    assert next_step(of, _END, _END) is None
    for step in (
        next_step(of, _END, _END, awaits=False),
        next_step(of, _END + PAYMENT_AWAITED_FOR, _END + PAYMENT_AWAITED_FOR),
    ):
        assert step is not None
        assert (step.event.effective_time, step.after.period_start_time) == (_END, _END)
