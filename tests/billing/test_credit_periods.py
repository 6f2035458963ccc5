"""The credit summary says which subscription refills an account, its period, and when it does so next."""

from datetime import UTC, timedelta

from tests.billing.subscription_calls import NOW, PERIOD_END, Subscriptions
from tests.billing.support import Ledger, organization
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import credit_pb2, ledger_pb2
from tollhouse.common.v1.amount_pb2 import Amount


async def test_credit_summary_shows_the_period_of_the_subscription_that_refills(
    timed: Ledger, clock: FixedClock
) -> None:
    org, calls = organization(), Subscriptions(timed)

    async def summary() -> credit_pb2.GetCreditSummaryResponse:
        return await timed.credit_summary(org, currency_code="CREDIT")

    credits_ = Amount(currency_code="CREDIT", value="4")
    gift = credit_pb2.GrantCreditsRequest(organization_id=org, operation_id="gift", amount=credits_)
    await timed.credits.GrantCredits(gift, metadata=timed.metadata)
    assert (await summary()).subscription_id == ""
    made = await calls.create(org)
    clock.advance(timedelta(days=2))
    use = ledger_pb2.DebitRequest(organization_id=org, operation_id="use", amount=credits_)
    await timed.ledger.Debit(use, metadata=timed.metadata)
    found = await summary()
    assert (found.subscription_id, found.last_refill_time) == (made.subscription_id, made.start_time)
    assert (found.period_start_time, found.period_end_time) == (made.period_start_time, made.period_end_time)
    assert (found.next_refill_time, found.used_since_refill_amount.value) == (made.period_end_time, "4")

    await calls.cancel(made, PERIOD_END)
    found = await summary()
    assert (found.subscription_id, found.HasField("next_refill_time")) == (made.subscription_id, False)
    await calls.withdraw_cancellation(made)
    assert (await summary()).next_refill_time == made.period_end_time
    # One that expires first is not refilled again.
    await calls.update(made, expire_time=made.period_end_time.ToDatetime(tzinfo=UTC))
    assert not (await summary()).HasField("next_refill_time")
    await calls.cancel(made, NOW)
    found = await summary()
    assert (found.subscription_id, found.HasField("period_start_time")) == ("", False)
    assert found.last_refill_time == made.start_time
