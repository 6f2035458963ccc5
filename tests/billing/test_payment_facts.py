"""What providers say of payments is applied once and in any order, with what the payments bring and return."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from libs.common.ids import new_id
from services.billing.payment.domain import Brings, Credits, PaymentStatus, PaymentType
from services.billing.payment.payments import Payments
from services.billing.payment.provider import (
    Applied,
    ExternalSubscriptionStatus,
    FactStatus,
    Occasion,
    RefusedFor,
    Result,
    SubscriptionFact,
)
from services.billing.payment.references import References
from tests.billing.payment_house import PaymentHouse, at, fact, newer, open_payments, paid, reference

pytestmark = pytest.mark.shards


@pytest.fixture(scope="module")
async def house(module_database_urls: dict[str, str]) -> AsyncIterator[PaymentHouse]:
    async with open_payments(module_database_urls["billing"]) as house:
        yield house
        assert await house.findings() == []


async def test_a_payment_that_many_messages_tell_of_brings_its_credits_once(house: PaymentHouse) -> None:
    """Acceptance case 15: the session twice, twenty times at once, then the payment intent, then a refund."""
    checkout = await house.checkout()
    session = paid(checkout, references=(reference("CHECKOUT", f"cs_{checkout.payment_id}"),))
    first = await house.payments.apply(session)
    assert first == Applied(Result.APPLIED, None, checkout.organization_id, checkout.payment_id)
    again = await asyncio.gather(*(house.payments.apply(session) for _ in range(20)))
    assert {one.result for one in again} == {Result.REPEATED}
    intent = reference("PAYMENT", f"pi_{checkout.payment_id}")
    await house.payments.apply(paid(checkout, 2, references=(intent,)))
    assert await house.posted(checkout.organization_id) == {"CREDIT": 10}
    refunded = fact(None, 5, references=(intent,), refunded_amount=Decimal(10))
    assert (await house.payments.apply(refunded)).result is Result.APPLIED
    assert (await house.payments.apply(session)).result is Result.LATE
    assert await house.posted(checkout.organization_id) == {"CREDIT": 0}
    assert (await house.find(checkout)).status is PaymentStatus.REFUNDED


async def test_twenty_first_messages_at_once_bring_the_credits_once(house: PaymentHouse) -> None:
    checkout = await house.checkout()
    told = await asyncio.gather(
        *(
            house.payments.apply(paid(checkout, references=(reference("CHARGE", f"c-{n}-{checkout.payment_id}"),)))
            for n in range(20)
        )
    )
    assert {one.result for one in told} == {Result.APPLIED, Result.REPEATED}
    assert await house.posted(checkout.organization_id) == {"CREDIT": 10}


async def test_a_checkout_that_is_paid_by_two_orders_counts_once_and_the_second_is_refused_by_name(
    house: PaymentHouse,
) -> None:
    checkout = await house.checkout()
    orders = [
        paid(checkout, minute, references=(reference("ORDER", f"o-{minute}-{checkout.payment_id}"),))
        for minute in range(1, 6)
    ]
    told = await asyncio.gather(*map(house.payments.apply, orders))
    assert sorted(one.result for one in told) == [Result.APPLIED, *[Result.REFUSED] * 4]
    assert {one.reason for one in told} == {None, RefusedFor.ANOTHER_PAYMENT}
    # What was paid too much is given back at the provider, which is not to take the credits.
    for order, answer in zip(orders, told, strict=True):
        if answer.result is Result.REFUSED:
            again = await house.payments.apply(newer(order, 60, refunded_amount=Decimal(10)))
            assert again == Applied(
                Result.REFUSED, RefusedFor.ANOTHER_PAYMENT, checkout.organization_id, checkout.payment_id, answer.detail
            )
    assert await house.posted(checkout.organization_id) == {"CREDIT": 10}
    (first,) = [order for order, answer in zip(orders, told, strict=True) if answer.result is Result.APPLIED]
    await house.payments.apply(newer(first, 61, refunded_amount=Decimal(10)))
    assert await house.posted(checkout.organization_id) == {"CREDIT": 0}


async def test_two_processes_that_are_told_of_two_orders_of_a_checkout_at_once_let_one_pass(
    house: PaymentHouse,
) -> None:
    other = Payments(house.shards, house.references, house.steps, house.clock)
    checkouts = [await house.checkout() for _ in range(12)]
    orders = [
        [paid(one, minute, references=(reference("ORDER", f"p-{minute}-{one.payment_id}"),)) for minute in (1, 2)]
        for one in checkouts
    ]
    for (one, another), checkout in zip(orders, checkouts, strict=True):
        told = await asyncio.gather(house.payments.apply(one), other.apply(another))
        assert sorted(answer.result for answer in told) == [Result.APPLIED, Result.REFUSED]
        won, lost = (one, another) if told[0].result is Result.APPLIED else (another, one)
        # The money of the one that is too much is given back at the provider, which takes no credits.
        refund = await house.payments.apply(newer(lost, 60, refunded_amount=Decimal(10)))
        assert (refund.result, refund.reason) == (Result.REFUSED, RefusedFor.ANOTHER_PAYMENT)
        assert await house.posted(checkout.organization_id) == {"CREDIT": 10}
        assert (await house.payments.apply(won)).result is Result.REPEATED


async def test_an_order_that_was_begun_first_and_paid_second_is_refused(house: PaymentHouse) -> None:
    checkout = await house.checkout()
    begun, quick = (paid(checkout, n, references=(reference("ORDER", f"{n}-{checkout.payment_id}"),)) for n in (1, 2))
    assert (await house.payments.apply(replace(begun, status=FactStatus.PENDING))).result is Result.APPLIED
    assert (await house.payments.apply(quick)).result is Result.APPLIED
    late = await house.payments.apply(newer(begun, 3))
    assert (late.result, late.reason) == (Result.REFUSED, RefusedFor.ANOTHER_PAYMENT)
    assert await house.posted(checkout.organization_id) == {"CREDIT": 10}


async def test_a_late_message_changes_nothing(house: PaymentHouse) -> None:
    checkout = await house.checkout()
    await house.payments.apply(paid(checkout, 10, refunded_amount=Decimal(4)))
    assert (await house.payments.apply(paid(checkout, 3, refunded_amount=Decimal(1)))).result is Result.LATE
    after = await house.find(checkout)
    assert (after.refunded_amount, after.status) == (Decimal(4), PaymentStatus.PARTIALLY_REFUNDED)
    assert await house.posted(checkout.organization_id) == {"CREDIT": 6}


async def test_a_refund_takes_what_is_left_of_the_grant_and_makes_the_rest_a_debt(house: PaymentHouse) -> None:
    checkout = await house.checkout()
    await house.payments.apply(paid(checkout))
    await house.spend(checkout.organization_id, "4")
    await house.payments.apply(paid(checkout, 2, refunded_amount=Decimal(10)))
    after = await house.find(checkout)
    assert (after.taken_credits, after.taken_money, after.written_off) == (Decimal(6), Decimal(4), Decimal(0))
    assert await house.posted(checkout.organization_id) == {"CREDIT": -4}


async def test_a_refund_leaves_other_credits_alone_and_never_takes_more_than_the_payment(house: PaymentHouse) -> None:
    checkout = await house.checkout()
    await house.payments.apply(paid(checkout))
    other = await house.checkout(checkout.organization_id)
    await house.payments.apply(paid(other))
    await house.spend(checkout.organization_id, "12")
    await house.payments.apply(paid(other, 2, refunded_amount=Decimal("3.333333333")))
    assert await house.posted(checkout.organization_id) == {"CREDIT": Decimal("4.666666667")}
    await house.payments.apply(paid(other, 3, refunded_amount=Decimal(10)))
    assert await house.posted(checkout.organization_id) == {"CREDIT": Decimal(-2)}
    excess = await house.payments.apply(paid(other, 4, refunded_amount=Decimal("10.01")))
    assert (excess.result, excess.reason) == (Result.REFUSED, RefusedFor.INVALID)


async def test_a_dispute_that_is_won_gives_back_what_was_taken(house: PaymentHouse) -> None:
    checkout = await house.checkout()
    await house.payments.apply(paid(checkout))
    await house.spend(checkout.organization_id, "4")
    for minutes in (2, 4, 6):
        await house.payments.apply(fact(checkout, minutes, disputed=True))
        assert await house.posted(checkout.organization_id) == {"CREDIT": -4}
        assert (await house.find(checkout)).status is PaymentStatus.DISPUTED
        await house.payments.apply(fact(checkout, minutes + 1, disputed=False))
        assert await house.posted(checkout.organization_id) == {"CREDIT": 6}
    assert (await house.find(checkout)).returned == 0


async def test_what_happens_is_announced_once_in_its_order(house: PaymentHouse) -> None:
    checkout = await house.checkout()
    failed = fact(checkout, 1, status=FactStatus.FAILED)
    told = [failed, paid(checkout, 2), paid(checkout, 3, refunded_amount=Decimal(3)), fact(checkout, 4, disputed=True)]
    won = fact(checkout, 5, disputed=False)
    for one in (*told, *told, won, paid(checkout, 6, refunded_amount=Decimal(10))):
        await house.payments.apply(one)
    async with house.shards.of(checkout.organization_id).raw_connection() as connection:
        rows = await connection.fetch(
            "SELECT type FROM events WHERE organization_id = $1::uuid AND subject = $2 ORDER BY sequence",
            checkout.organization_id,
            f"payment/{checkout.payment_id}",
        )
    happened = [row[0].removeprefix("tollhouse.payment.") for row in rows]
    assert happened == ["failed", "completed", "refunded", "disputed", "refunded"]


async def test_credits_that_expired_are_never_a_debt(house: PaymentHouse) -> None:
    checkout = await house.checkout(credits=Credits("CREDIT", Decimal(10), expire_time=at(0).time))
    await house.payments.apply(paid(checkout))
    assert await house.posted(checkout.organization_id) == {"CREDIT": 0}
    await house.payments.apply(paid(checkout, 2, refunded_amount=Decimal(10)))
    after = await house.find(checkout)
    assert (after.taken_credits, after.taken_money, after.written_off) == (Decimal(0), Decimal(0), Decimal(10))
    assert await house.posted(checkout.organization_id) == {"CREDIT": 0}


async def test_money_of_a_top_up_is_taken_back_by_reversing_its_credit(house: PaymentHouse) -> None:
    checkout = await house.checkout(type=PaymentType.TOP_UP, brings=Brings.MONEY, credits=Credits("USD", Decimal(10)))
    await house.earn(checkout.organization_id, "1")
    await house.payments.apply(paid(checkout))
    assert await house.posted(checkout.organization_id) == {"CREDIT": 1, "USD": 10}
    await house.spend(checkout.organization_id, "7", "USD")
    await house.payments.apply(paid(checkout, 2, refunded_amount=Decimal(5)))
    assert (await house.posted(checkout.organization_id))["USD"] == -2
    await house.payments.apply(fact(checkout, 3, disputed=True))
    assert (await house.posted(checkout.organization_id))["USD"] == -7
    await house.payments.apply(fact(checkout, 4, disputed=False))
    assert (await house.posted(checkout.organization_id))["USD"] == -2


async def test_a_refund_that_is_told_before_the_payment_ends_the_same(house: PaymentHouse) -> None:
    checkout = await house.checkout()
    assert (await house.payments.apply(fact(checkout, 5, refunded_amount=Decimal(3)))).result is Result.APPLIED
    assert await house.posted(checkout.organization_id) == {}
    await house.payments.apply(paid(checkout, 1))
    assert await house.posted(checkout.organization_id) == {"CREDIT": 7}


async def test_what_is_not_known_is_parked_and_applied_later(house: PaymentHouse) -> None:
    """Acceptance case 16, for payments: a renewal before its subscription is known."""
    checkout = await house.checkout(
        type=PaymentType.SUBSCRIPTION, brings=Brings.MONEY, credits=Credits("USD", Decimal(10))
    )
    of_subscription = reference("SUBSCRIPTION", f"sub_{checkout.payment_id}")
    invoice = reference("INVOICE", f"in_{checkout.payment_id}")
    renewal = paid(checkout, 9, occasion=Occasion.RENEWAL, checkout_id=None, references=(invoice, of_subscription))
    assert (await house.payments.apply(renewal)).result is Result.PARKED
    first = paid(checkout, 1, occasion=Occasion.FIRST, references=(of_subscription,))
    assert (await house.payments.apply(first)).result is Result.APPLIED
    renewed = await asyncio.gather(*(house.payments.apply(renewal) for _ in range(10)))
    assert {one.result for one in renewed} == {Result.APPLIED, Result.REPEATED}
    assert len({one.payment_id for one in renewed} | {checkout.payment_id}) == 2
    assert await house.posted(checkout.organization_id) == {"USD": 20}


@pytest.mark.parametrize("processes", [1, 2])
async def test_facts_of_one_new_renewal_at_once_that_name_it_by_more_and_less_are_of_one_payment(
    house: PaymentHouse, processes: int
) -> None:
    other = house.payments
    if processes == 2:
        other = Payments(house.shards, References(house.platform), house.steps, house.clock)
    checkout = await house.checkout(
        type=PaymentType.SUBSCRIPTION, brings=Brings.MONEY, credits=Credits("USD", Decimal(10))
    )
    subscription = reference("SUBSCRIPTION", f"sub_{checkout.payment_id}")
    await house.payments.apply(paid(checkout, 1, occasion=Occasion.FIRST, references=(subscription,)))
    of_renewal: dict[str, Any] = {"occasion": Occasion.RENEWAL, "checkout_id": None}
    for number in range(1, 21):
        invoice = reference("INVOICE", f"in_{number}_{checkout.payment_id}")
        # By their names one is before the invoice in the order of keys, and one after it.
        charge, intent = (reference(kind, f"{number}_{checkout.payment_id}") for kind in ("CHARGE", "PAYMENT"))
        failed = fact(checkout, 10 * number, status=FactStatus.FAILED, references=(invoice, subscription), **of_renewal)
        took = paid(checkout, 10 * number + 1, references=(charge, intent, invoice, subscription), **of_renewal)
        told = await asyncio.gather(house.payments.apply(failed), other.apply(took))
        assert {one.reason for one in told} == {None}, number
        assert len({one.payment_id for one in told}) == 1, number
        assert await house.posted(checkout.organization_id) == {"USD": 10 + 10 * number}


async def test_the_newest_state_of_a_subscription_counts_whatever_comes_first(house: PaymentHouse) -> None:
    """Acceptance case 16: updated before created is active; a late created after deleted stays cancelled."""
    checkout = await house.checkout(
        type=PaymentType.SUBSCRIPTION, brings=Brings.MONEY, credits=Credits("USD", Decimal(10))
    )
    told = SubscriptionFact(
        provider="acme",
        external_id=f"sub_{checkout.payment_id}",
        version=at(2),
        status=ExternalSubscriptionStatus.ACTIVE,
        is_test=False,
        store="",
    )
    assert (await house.payments.apply(told)).result is Result.PARKED
    told = replace(told, checkout_id=checkout.payment_id)
    assert (await house.payments.apply(told)).result is Result.APPLIED
    created = replace(told, version=at(1), status=ExternalSubscriptionStatus.PAST_DUE)
    assert (await house.payments.apply(created)).result is Result.LATE
    assert (await house.payments.apply(told)).result is Result.REPEATED
    deleted = replace(told, version=at(3), status=ExternalSubscriptionStatus.CANCELLED, checkout_id=None)
    assert (await house.payments.apply(deleted)).result is Result.APPLIED
    assert (await house.payments.apply(told)).result is Result.LATE


async def test_a_failed_payment_brings_nothing_and_can_still_be_paid(house: PaymentHouse) -> None:
    checkout = await house.checkout()
    failed = fact(checkout, 1, status=FactStatus.FAILED, failure="card declined" * 100)
    await house.payments.apply(failed)
    after = await house.find(checkout)
    assert (after.status, len(after.failure)) == (PaymentStatus.FAILED, 500)
    await house.payments.apply(paid(checkout, 2))
    assert (await house.payments.apply(newer(failed, 3))).result is Result.APPLIED
    assert (await house.find(checkout)).status is PaymentStatus.COMPLETED
    assert await house.posted(checkout.organization_id) == {"CREDIT": 10}


REFUSED = {
    "another currency": (RefusedFor.WRONG_CURRENCY, {"currency_code": "EUR"}),
    "another amount": (RefusedFor.WRONG_AMOUNT, {"amount": Decimal("9.99")}),
    "another product": (RefusedFor.WRONG_PRODUCT, {"product_external_id": "other"}),
    "another provider": (RefusedFor.WRONG_PROVIDER, {"provider": "other"}),
    "test mode": (RefusedFor.WRONG_MODE, {"is_test": True}),
    "no amount": (RefusedFor.INVALID, {"amount": None}),
    "a negative refund": (RefusedFor.INVALID, {"refunded_amount": Decimal(-1)}),
    "an infinite amount": (RefusedFor.INVALID, {"amount": Decimal("Infinity")}),
    "ten fraction digits": (RefusedFor.INVALID, {"amount": Decimal("1.0000000001")}),
    "a long id": (RefusedFor.INVALID, {"references": (reference("ORDER", "x" * 256),)}),
    "an id with NUL": (RefusedFor.INVALID, {"references": (reference("ORDER", "\0"),)}),
    "many references": (RefusedFor.INVALID, {"references": tuple(reference("ORDER", str(n)) for n in range(17))}),
    "a script as receipt": (RefusedFor.INVALID, {"receipt_url": "javascript:alert(1)"}),
}


@pytest.mark.parametrize("wrong", REFUSED)
async def test_what_contradicts_the_checkout_is_refused_and_brings_nothing(house: PaymentHouse, wrong: str) -> None:
    reason, fields = REFUSED[wrong]
    checkout = await house.checkout(external_product_id="variant-1")
    answer = await house.payments.apply(paid(checkout, **fields))  # type: ignore[arg-type]
    assert (answer.result, answer.reason) == (Result.REFUSED, reason)
    assert await house.posted(checkout.organization_id) == {}
    assert (await house.find(checkout)).status is PaymentStatus.PENDING


async def test_an_object_belongs_to_one_payment_over_the_installation(house: PaymentHouse) -> None:
    mine, theirs = await house.checkout(), await house.checkout()
    order = reference("ORDER", new_id())
    await house.payments.apply(paid(mine, references=(order,)))
    stolen = await house.payments.apply(paid(theirs, references=(order,)))
    assert (stolen.result, stolen.reason) == (Result.REFUSED, RefusedFor.ANOTHER_ORGANIZATION)
    second = await house.checkout(mine.organization_id)
    doubled = await house.payments.apply(paid(second, references=(order,)))
    assert (doubled.result, doubled.reason) == (Result.REFUSED, RefusedFor.ANOTHER_PAYMENT)
    assert await house.posted(theirs.organization_id) == {}
    assert await house.posted(mine.organization_id) == {"CREDIT": 10}
