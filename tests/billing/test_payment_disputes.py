"""Disputes of one payment are told apart, also of payments that were stored before they were; and closed accounts."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal

import pytest

from libs.common.ids import new_id
from services.billing.errors import AccountClosed
from services.billing.payment.domain import Brings, Credits, Payment, PaymentStatus, PaymentType, undelivered
from services.billing.payment.provider import FactStatus, Occasion, PaymentFact, RefusedFor, Result
from services.billing.payment.references import Claim, ProvidersReference
from services.billing.payment.refunds import NewRefundRequest
from services.billing.payment.said import Field, merge, of_dispute, told_by
from tests.billing.dying_payment import record_and_refund, record_of
from tests.billing.payment_house import PaymentHouse, fact, open_payments, paid, reference


@pytest.fixture(scope="module")
async def house(module_database_urls: dict[str, str]) -> AsyncIterator[PaymentHouse]:
    async with open_payments(module_database_urls["billing"]) as house:
        yield house
        assert await house.findings() == []


def told(checkout: Payment, minutes: int, dispute: str, over: str | None, code: str = "USD") -> PaymentFact:
    """Return what a dispute says: what it is over, or None when it is won."""
    return fact(
        checkout,
        minutes,
        references=(reference("DISPUTE", f"{dispute}-{checkout.payment_id}"),),
        disputed=over is not None,
        disputed_amount=None if over is None else Decimal(over),
        disputed_currency_code=code,
    )


async def stored_before(house: PaymentHouse, known: tuple[str, ...], *, disputed: bool) -> Payment:
    """Return a payment as a version stored it that kept one saying on all disputes, with their references."""
    checkout = await house.checkout()
    await house.payments.apply(paid(checkout))
    await house.payments.apply(fact(checkout, 10, disputed=disputed))
    references = [ProvidersReference("acme", reference("DISPUTE", f"{one}-{checkout.payment_id}")) for one in known]
    claim = Claim(checkout.organization_id, checkout.payment_id)
    assert not await house.references.claim(references, claim, house.clock.now())
    before = await house.find(checkout)
    assert before.said[Field.DISPUTED].value == ("true" if disputed else "false")
    return before


async def standing(house: PaymentHouse, payment: Payment) -> tuple[str, Decimal | int]:
    """Return the status of a payment, and what is left of its 10 credits."""
    posted = await house.posted(payment.organization_id)
    return (await house.find(payment)).status.value, posted["CREDIT"]


async def test_a_dispute_in_another_currency_or_above_the_payment_takes_all_and_never_more(house: PaymentHouse) -> None:
    for over, code in (("1", "EUR"), ("10.01", "USD")):
        checkout = await house.checkout()
        await house.payments.apply(paid(checkout, refunded_amount=Decimal(4)))
        await house.payments.apply(told(checkout, 2, "a", over, code))
        assert await standing(house, checkout) == ("DISPUTED", 0)
        await house.payments.apply(told(checkout, 3, "a", None))
        assert await standing(house, checkout) == ("PARTIALLY_REFUNDED", 6)


async def test_an_older_message_of_one_dispute_is_late_whatever_another_one_said_since(house: PaymentHouse) -> None:
    checkout = await house.checkout()
    await house.payments.apply(paid(checkout))
    await house.payments.apply(told(checkout, 5, "a", "3"))
    assert (await house.payments.apply(told(checkout, 3, "a", None))).result is Result.LATE
    assert (await house.payments.apply(told(checkout, 4, "b", "2"))).result is Result.APPLIED
    assert (await house.payments.apply(told(checkout, 4, "b", "2"))).result is Result.REPEATED
    assert await standing(house, checkout) == ("DISPUTED", 5)


async def test_a_disputed_amount_that_is_none_is_refused(house: PaymentHouse) -> None:
    checkout = await house.checkout()
    await house.payments.apply(paid(checkout))
    for over, code in (("-1", "USD"), ("NaN", "USD"), ("1", "usd"), ("1", "")):
        answer = await house.payments.apply(told(checkout, 2, "a", over, code))
        assert (answer.result, answer.reason) == (Result.REFUSED, RefusedFor.INVALID)
    assert await standing(house, checkout) == ("COMPLETED", 10)


async def test_a_dispute_that_an_earlier_version_stored_is_won_as_before(house: PaymentHouse) -> None:
    payment = await stored_before(house, ("a",), disputed=True)
    assert await standing(house, payment) == ("DISPUTED", 0)
    assert (await house.payments.apply(told(payment, 9, "a", "10"))).result is Result.LATE
    await house.payments.apply(told(payment, 11, "a", None))
    assert await standing(house, payment) == ("COMPLETED", 10)


async def test_a_dispute_that_an_earlier_version_stored_as_won_stays_so(house: PaymentHouse) -> None:
    payment = await stored_before(house, ("a",), disputed=False)
    assert (await house.payments.apply(told(payment, 9, "a", "10"))).result is Result.LATE
    await house.payments.apply(told(payment, 11, "b", "4"))
    assert await standing(house, payment) == ("DISPUTED", 6)


async def test_a_dispute_that_an_earlier_version_stored_is_not_won_with_another_one(house: PaymentHouse) -> None:
    payment = await stored_before(house, ("a",), disputed=True)
    await house.payments.apply(told(payment, 11, "b", "10"))
    await house.payments.apply(told(payment, 12, "b", None))
    assert await standing(house, payment) == ("DISPUTED", 0)
    after = await house.find(payment)
    assert after.status is PaymentStatus.DISPUTED
    assert {name for name in after.said if name.startswith(Field.DISPUTED)} == {
        of_dispute(f"{one}-{payment.payment_id}") for one in "ab"
    }


async def closed(house: PaymentHouse, payment: Payment) -> Payment:
    """Close the account that has the credits of a payment, which are used up."""
    posted = (await house.posted(payment.organization_id))["CREDIT"]
    if posted:
        await house.spend(payment.organization_id, str(posted))
    await house.close_account(payment.organization_id, "CREDIT")
    return await house.find(payment)


async def standing_of_closed(house: PaymentHouse, payment: Payment) -> tuple[str, Decimal | int, Decimal | int]:
    """Return the status of a payment, what was taken of it, and what its account is still to have."""
    found = await house.find(payment)
    return found.status.value, found.returned, undelivered(found)


async def test_a_dispute_that_is_won_after_the_account_was_closed_is_over_and_what_is_owed_is_told_and_given_later(
    house: PaymentHouse,
) -> None:
    checkout = await house.checkout()
    await house.payments.apply(paid(checkout))
    await house.payments.apply(told(checkout, 2, "a", "10"))
    await closed(house, checkout)
    answers = [(await house.payments.apply(told(checkout, 3, "a", None))).result for _ in range(2)]
    assert answers == [Result.APPLIED, Result.REPEATED]
    assert await standing_of_closed(house, checkout) == ("COMPLETED", 10, 10)
    before = await house.find(checkout)
    await house.settle()
    assert await house.find(checkout) == before
    await house.open_account(checkout.organization_id)
    await asyncio.gather(house.settle(), house.settle())
    assert await standing_of_closed(house, checkout) == ("COMPLETED", 0, 0)
    assert await standing(house, checkout) == ("COMPLETED", 10)
    await house.settle()
    assert await standing(house, checkout) == ("COMPLETED", 10)


async def test_a_dispute_or_a_refund_of_a_closed_account_leaves_a_debt_that_is_given_back_where_it_is_won(
    house: PaymentHouse,
) -> None:
    checkout = await house.checkout()
    await house.payments.apply(paid(checkout))
    await closed(house, checkout)
    await house.payments.apply(paid(checkout, 2, refunded_amount=Decimal(3)))
    await house.payments.apply(told(checkout, 2, "a", "4"))
    assert await standing_of_closed(house, checkout) == ("DISPUTED", 7, 0)
    assert await standing(house, checkout) == ("DISPUTED", -7)
    await house.payments.apply(told(checkout, 3, "a", None))
    assert await standing_of_closed(house, checkout) == ("PARTIALLY_REFUNDED", 3, 0)
    assert await standing(house, checkout) == ("PARTIALLY_REFUNDED", -3)


async def test_what_is_paid_for_a_closed_account_is_told_and_brought_when_the_account_is_open(
    house: PaymentHouse,
) -> None:
    """Whatever is said of it meanwhile: it was refunded in part, and disputed, and a failed attempt came late."""
    checkout = await house.checkout()
    await house.earn(checkout.organization_id, "1", "CREDIT")
    await closed(house, checkout)
    order = (reference("ORDER", f"o-{checkout.payment_id}"),)
    for _ in range(2):
        answer = await house.payments.apply(paid(checkout, 2, references=order))
        assert (answer.result, answer.reason) == (Result.REFUSED, RefusedFor.ACCOUNT_CLOSED)
    await house.payments.apply(fact(checkout, 3, references=order, status=FactStatus.FAILED, failure="late"))
    assert await standing_of_closed(house, checkout) == ("PENDING", 0, 10)
    other = await house.payments.apply(paid(checkout, 3, references=(reference("ORDER", f"p-{checkout.payment_id}"),)))
    assert (other.result, other.reason) == (Result.REFUSED, RefusedFor.ANOTHER_PAYMENT)
    await house.payments.apply(fact(checkout, 4, references=order, refunded_amount=Decimal(3)))
    await house.payments.apply(told(checkout, 5, "a", "2"))
    assert await standing_of_closed(house, checkout) == ("PENDING", 0, 5)
    assert await house.findings() == []
    await house.open_account(checkout.organization_id)
    await house.settle()
    assert await standing(house, checkout) == ("DISPUTED", 5)


async def test_a_renewal_of_a_closed_account_is_kept_and_brought_when_the_account_is_open(house: PaymentHouse) -> None:
    money = Credits("CREDIT", Decimal(10))
    checkout = await house.checkout(type=PaymentType.SUBSCRIPTION, brings=Brings.MONEY, credits=money)
    subscription = reference("SUBSCRIPTION", f"s-{checkout.payment_id}")
    await house.payments.apply(paid(checkout, references=(subscription,), occasion=Occasion.FIRST))
    await closed(house, checkout)
    invoice = reference("INVOICE", f"i-{checkout.payment_id}")
    renewal = paid(checkout, 2, references=(subscription, invoice), occasion=Occasion.RENEWAL, checkout_id=None)
    answers = [await house.payments.apply(renewal) for _ in range(2)]
    (renewed,) = {one.payment_id for one in answers}
    assert {one.reason for one in answers} == {RefusedFor.ACCOUNT_CLOSED}
    payment = replace(checkout, payment_id=str(renewed))
    assert await standing_of_closed(house, payment) == ("PENDING", 0, 10)
    await house.open_account(checkout.organization_id)
    await house.settle()
    assert await standing(house, payment) == ("COMPLETED", 10)


async def test_refund_by_hand_of_a_closed_account_is_refused_and_one_that_was_made_is_repeated(
    house: PaymentHouse,
) -> None:
    org = new_id()
    await record_and_refund(house, org)
    await house.spend(org, "6", "USD")
    await house.close_account(org, "USD")
    payment, _ = await house.records.record(record_of(org))
    again = NewRefundRequest(org, payment.payment_id, "again", Decimal(4), "USD", "test")
    with pytest.raises(AccountClosed):
        await house.refunds.refund(again)
    assert (await house.refunds.refund(replace(again, request_id="back")))[1]
    assert await house.posted(org) == {"USD": 0}


async def test_a_payment_that_a_dying_process_left_unsettled_is_settled_without_a_further_message(
    house: PaymentHouse,
) -> None:
    checkout = await house.checkout()
    await house.payments.apply(paid(checkout))
    before = await house.find(checkout)
    said = merge(before.said, told_by(paid(checkout, 2, refunded_amount=Decimal(3))))
    await house.steps.keep(replace(before, said=said))
    assert await standing(house, checkout) == ("PARTIALLY_REFUNDED", 10)
    await house.settle()
    assert await standing(house, checkout) == ("PARTIALLY_REFUNDED", 7)
