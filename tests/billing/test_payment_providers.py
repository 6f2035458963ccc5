"""Checkouts and refunds through a provider: the provider is asked once, and what it says is applied."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from libs.common.clock import Clock, SystemClock
from libs.common.errors import Conflict, InvalidArgument, RequestIdReused, Unavailable
from libs.common.ids import new_id
from services.billing import payment_errors as errors
from services.billing.clients.subjects import Subjects
from services.billing.errors import AccountClosed
from services.billing.payment import refund_store
from services.billing.payment.checkouts import Checkouts, NewPurchase
from services.billing.payment.domain import Payment, PaymentStatus, PaymentType, Refund, RefundState
from services.billing.payment.parsing import read_purchase
from services.billing.payment.products import Products
from services.billing.payment.provider import (
    Changes,
    FactStatus,
    FailedRefund,
    NewCharge,
    NewCheckout,
    NewRefund,
    OpenedCheckout,
    Parsed,
    PaymentFact,
    ProviderDeclined,
    ProviderDown,
    ProviderError,
    Renewal,
    Result,
)
from services.billing.payment.refunds import NewRefundRequest, Refunds
from services.billing.plan.domain import Money
from services.billing.recurring.sales import Sales
from services.billing.subscription.offers import Offers
from services.billing.subscription.self_service import SelfService
from tests.billing.payment_house import PaymentHouse, at, fact, open_payments, paid, reference
from tests.support.clock import ShiftedClock
from tollhouse.billing.v1 import payment_pb2 as pb
from tollhouse.common.v1.amount_pb2 import Amount

pytestmark = pytest.mark.shards


@dataclass
class Acme:
    """A provider that keeps what it is asked for by the idempotency keys, as providers do."""

    checkouts: dict[str, NewCheckout] = field(default_factory=dict)
    refunds: dict[str, NewRefund] = field(default_factory=dict)
    charges: dict[str, NewCharge] = field(default_factory=dict)
    failures: list[ProviderError] = field(default_factory=list)
    """What the next calls fail with. A refund is made all the same where the provider is down: the answer is lost."""
    asked: list[NewRefund] = field(default_factory=list)
    """The refunds that it was asked for, in their order."""
    is_asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while `answers` is waited for."""
    answers: asyncio.Event | None = None
    """Where given: refunds are made, and answered when this is set."""

    charges_saved_methods: bool = True

    @property
    def name(self) -> str:
        return "acme"

    def smallest(self, currency_code: str) -> Decimal:
        return Decimal(1) if currency_code == "JPY" else Decimal("0.01")

    async def create_checkout(self, checkout: NewCheckout) -> OpenedCheckout:
        if self.failures:
            raise self.failures.pop()
        self.checkouts.setdefault(checkout.checkout_id, checkout)
        return OpenedCheckout(
            f"https://acme.example/{checkout.checkout_id}", (reference("ORDER", checkout.checkout_id),)
        )

    async def refund(self, refund: NewRefund) -> PaymentFact:
        self.asked.append(refund)
        failure = self.failures.pop() if self.failures else None
        if isinstance(failure, ProviderDeclined):
            raise failure
        self.refunds.setdefault(refund.refund_id, refund)
        if self.answers is not None:
            self.is_asked.set()
            await self.answers.wait()
        if failure is not None:
            raise failure
        total = sum((one.amount for one in self.refunds.values() if one.references == refund.references), Decimal(0))
        return replace(fact(None, 100 + len(self.refunds)), references=refund.references, refunded_amount=total)

    def verify(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: datetime) -> None:
        raise AssertionError("nobody asks for this here")

    def parse(self, body: bytes) -> Parsed:
        raise AssertionError("nobody asks for this here")

    async def portal_url(self, customer: str) -> str:
        raise AssertionError("nobody asks for this here")

    async def set_renewal(self, external_id: str, renewal: Renewal) -> None:
        raise AssertionError("nobody asks for this here")

    async def charge_saved(self, charge: NewCharge) -> PaymentFact:
        failure = self.failures.pop() if self.failures else None
        if isinstance(failure, ProviderDeclined):
            raise failure
        self.charges.setdefault(charge.payment_id, charge)
        if failure is not None:
            raise failure
        return replace(
            fact(None, 1),
            checkout_id=charge.payment_id,
            status=FactStatus.COMPLETED,
            amount=charge.amount,
            currency_code=charge.currency_code,
        )

    def changed_since(self, since: datetime) -> AsyncIterator[Changes]:
        raise AssertionError("nobody asks for this here")


@dataclass
class Shop:
    """A provider, and what uses it."""

    house: PaymentHouse
    acme: Acme
    checkouts: Checkouts
    refunds: Refunds

    async def open(self, org: str, request_id: str = "buy", value: str = "10") -> Payment:
        new = NewPurchase(
            organization_id=org,
            request_id=request_id,
            provider="",
            user_id=None,
            email=None,
            product_code="",
            plan_code="",
            top_up=Money("USD", Decimal(value)),
            subscriber_user_id=None,
            success_url="https://example.com/",
            cancel_url="https://example.com/",
            description="",
            metadata=None,
            request={"value": value},
        )
        return (await self.checkouts.open(new))[0]

    async def paid_order(self) -> Payment:
        payment = await self.open(new_id())
        await self.house.payments.apply(paid(payment, references=(reference("ORDER", payment.payment_id),)))
        return payment

    def another_process(self, clock: Clock | None = None) -> Refunds:
        """Return what refunds payments in another process: they share the database alone."""
        house = self.house
        providers = {"acme": self.acme}
        return Refunds(house.shards, house.references, house.steps, house.payments, providers, clock or house.clock)

    def asked_for(self, payment: Payment) -> list[str]:
        """The refunds that the provider was asked for, and what was refunded before where it may have made them."""
        asked = [one for one in self.acme.asked if reference("ORDER", payment.payment_id) in one.references]
        return [
            f"{one.amount:.0f}, {one.refunded_before:.0f}" if one.may_be_made else f"{one.amount:.0f}" for one in asked
        ]

    async def refund(self, payment: Payment, request_id: str, value: str, code: str = "USD") -> bool:
        asked = NewRefundRequest(
            payment.organization_id, payment.payment_id, request_id, Decimal(value), code, "asked for"
        )
        return (await self.refunds.refund(asked))[1]


@pytest.fixture(scope="module")
async def shop(module_database_urls: dict[str, str]) -> AsyncIterator[Shop]:
    acme = Acme()
    async with open_payments(module_database_urls["billing"], providers={"acme": acme}) as house:
        products = Products(house.platform, house.clock)
        checkouts = Checkouts(
            house.shards,
            house.platform,
            house.references,
            house.steps,
            products,
            {"acme": acme},
            SystemClock(),
            Subjects(None, None),
            Sales(house.shards, Offers(house.platform), SelfService()),
            is_test=False,
        )
        yield Shop(house, acme, checkouts, house.refunds)
        assert await house.findings() == []


async def test_a_purchase_with_one_id_opens_one_checkout_and_is_paid_once(shop: Shop) -> None:
    org = new_id()
    opened = await asyncio.gather(*(shop.open(org) for _ in range(10)))
    (payment_id,) = {one.payment_id for one in opened}
    assert opened[0].checkout_url == f"https://acme.example/{payment_id}"
    assert (opened[0].type, opened[0].status, opened[0].description) == (
        PaymentType.TOP_UP,
        PaymentStatus.PENDING,
        "Top-up",
    )
    asked = shop.acme.checkouts[payment_id]
    assert (asked.amount, asked.currency_code, asked.organization_id) == (Decimal(10), "USD", org)
    with pytest.raises(RequestIdReused):
        await shop.open(org, value="11")
    told = paid(opened[0], references=(reference("ORDER", payment_id),))
    assert (await shop.house.payments.apply(replace(told, checkout_id=None))).result is Result.APPLIED
    assert await shop.house.posted(org) == {"USD": 10}


async def test_a_checkout_that_the_provider_could_not_open_is_opened_by_the_repeat(shop: Shop) -> None:
    org = new_id()
    shop.acme.failures.append(ProviderDown("no answer"))
    with pytest.raises(Unavailable):
        await shop.open(org)
    shop.acme.failures.append(ProviderDeclined("no such currency"))
    with pytest.raises(errors.PaymentProviderDeclined):
        await shop.open(org)
    opened = await shop.open(org)
    assert opened.checkout_url
    assert list(shop.acme.checkouts).count(opened.payment_id) == 1


async def test_a_refund_whose_answer_was_lost_is_made_once_by_the_repeat(shop: Shop) -> None:
    org = new_id()
    payment = await shop.open(org)
    await shop.house.payments.apply(paid(payment, references=(reference("ORDER", payment.payment_id),)))
    shop.acme.failures.append(ProviderDown("connection lost"))
    with pytest.raises(Unavailable):
        await shop.refund(payment, "back", "4")
    with pytest.raises(errors.RefundExceedsPayment):
        await shop.refund(payment, "more", "7")
    # The provider tells of it by itself, too.
    told = replace(fact(payment, 99), references=(reference("ORDER", payment.payment_id),), refunded_amount=Decimal(4))
    await shop.house.payments.apply(told)
    with pytest.raises(errors.RefundUnderWay):
        await shop.refund(payment, "more", "6")
    with pytest.raises(errors.RefundExceedsPayment) as refused:
        await shop.refund(payment, "more", "7")
    assert refused.value.facts["remaining"] == "6"
    assert await shop.refund(payment, "back", "4") is False
    assert await shop.refund(payment, "back", "4") is True
    ours = [one for one in shop.acme.refunds.values() if reference("ORDER", payment.payment_id) in one.references]
    assert [one.amount for one in ours] == [Decimal(4)]
    assert await shop.house.posted(org) == {"USD": 6}
    assert (await shop.house.find(payment)).status is PaymentStatus.PARTIALLY_REFUNDED


async def test_while_a_refund_is_not_answered_no_other_is_asked_for_by_any_process(shop: Shop) -> None:
    payment = await shop.paid_order()
    other = replace(shop, refunds=shop.another_process())
    shop.acme.answers, shop.acme.is_asked = asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(shop.refund(payment, "back", "4"))
    await shop.acme.is_asked.wait()
    with pytest.raises(Conflict):
        await other.refund(payment, "back", "4")
    with pytest.raises(errors.RefundUnderWay):
        await other.refund(payment, "more", "1")
    shop.acme.answers.set()
    assert await first is False
    shop.acme.answers = None
    assert await other.refund(payment, "back", "4") is True
    assert await other.refund(payment, "more", "1") is False
    assert shop.asked_for(payment) == ["4", "1"]


async def test_repeat_of_a_refund_that_may_have_been_made_says_what_was_refunded_before(shop: Shop) -> None:
    payment = await shop.paid_order()
    await shop.refund(payment, "first", "3")
    shop.acme.failures.append(ProviderDown("connection lost"))
    with pytest.raises(Unavailable):
        await shop.refund(payment, "back", "4")
    await shop.refund(payment, "back", "4")
    assert shop.asked_for(payment) == ["3", "4", "4, 3"]
    assert (await shop.house.find(payment)).refunded_amount == 7


async def test_a_refund_that_a_cancelled_call_asked_for_is_left_alone_until_its_time_is_over(shop: Shop) -> None:
    payment = await shop.paid_order()
    shop.acme.answers, shop.acme.is_asked = asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(shop.refund(payment, "back", "4"))
    await shop.acme.is_asked.wait()
    first.cancel()
    await asyncio.wait([first])
    with pytest.raises(Conflict):
        await shop.refund(payment, "back", "4")
    shop.acme.answers = None
    later = ShiftedClock()
    later.advance(timedelta(minutes=11))
    assert await replace(shop, refunds=shop.another_process(later)).refund(payment, "back", "4") is False
    assert shop.asked_for(payment) == ["4", "4, 0"]
    assert (await shop.house.find(payment)).refunded_amount == 4


async def test_refund_that_is_not_applied_stays_asked_for_until_a_repeat_applies_it(shop: Shop) -> None:
    """The money is given back. Were it ended, the same money could be given back once more."""
    payment = await shop.paid_order()
    theirs = NewRefund(
        "theirs", (reference("ORDER", payment.payment_id),), Decimal(7), "USD", "", *(Decimal(0),) * 2, False
    )
    shop.acme.refunds["theirs"] = theirs
    with pytest.raises(errors.RefundNotApplied) as refused:
        await shop.refund(payment, "back", "4")
    assert refused.value.facts["detail"] == "the refunds exceed the payment"
    assert await shop.house.posted(payment.organization_id) == {"USD": 10}
    with pytest.raises(errors.RefundUnderWay):
        await shop.refund(payment, "more", "1")
    del shop.acme.refunds["theirs"]
    assert await shop.refund(payment, "back", "4") is False
    assert await shop.house.posted(payment.organization_id) == {"USD": 6}
    assert shop.asked_for(payment) == ["4", "4, 0"]


async def test_refund_of_a_part_of_a_cent_is_refused_before_it_blocks_others(shop: Shop) -> None:
    payment = await shop.paid_order()
    for value in ("0.005", "9.999"):
        with pytest.raises(InvalidArgument) as refused:
            await shop.refund(payment, "fraction", value)
        assert [one.field for one in refused.value.violations] == ["amount.value"]
    # What a version before has stored, and could not end.
    stuck = Refund(
        *(new_id(), "stuck", Decimal("0.005"), Decimal("0.005"), RefundState.REQUESTED, "asked for", "operator:test"),
        *(shop.house.clock.now(), Decimal(0)),
    )
    async with shop.house.shards.of(payment.organization_id).raw_connection() as connection:
        await refund_store.add_refund(connection, payment.organization_id, payment.payment_id, stuck)
    with pytest.raises(errors.RefundUnderWay):
        await shop.refund(payment, "back", "4")
    for _ in range(2):
        with pytest.raises(errors.PaymentProviderDeclined):
            await shop.refund(payment, "stuck", "0.005")
    assert await shop.refund(payment, "back", "4") is False
    assert shop.asked_for(payment) == ["4"]


async def test_two_refunds_at_once_never_exceed_the_payment(shop: Shop) -> None:
    org = new_id()
    payment = await shop.open(org)
    await shop.house.payments.apply(paid(payment, references=(reference("ORDER", payment.payment_id),)))
    both = await asyncio.gather(*(shop.refund(payment, name, "6") for name in ("one", "two")), return_exceptions=True)
    assert sorted(type(one).__name__ for one in both) == ["RefundExceedsPayment", "bool"]
    assert await shop.house.posted(org) == {"USD": 4}


async def test_a_refund_that_the_provider_refuses_takes_nothing_back(shop: Shop) -> None:
    org = new_id()
    payment = await shop.open(org)
    await shop.house.payments.apply(paid(payment, references=(reference("ORDER", payment.payment_id),)))
    shop.acme.failures.append(ProviderDeclined("too old"))
    for _ in range(2):
        with pytest.raises(errors.PaymentProviderDeclined):
            await shop.refund(payment, "back", "4")
    assert await shop.house.posted(org) == {"USD": 10}
    assert await shop.refund(payment, "all", "10") is False
    assert await shop.house.posted(org) == {"USD": 0}


async def test_a_refund_that_fails_after_it_was_made_gives_back_what_was_taken_and_can_be_asked_for_again(
    shop: Shop,
) -> None:
    payment = await shop.paid_order()
    await shop.refund(payment, "back", "4")
    made = shop.acme.asked[-1]
    names = reference("ORDER", payment.payment_id), reference("REFUND", f"r-{payment.payment_id}")
    failed = FailedRefund(Decimal(4), at(50).time, made.refund_id)
    made_version = at(100 + len(shop.acme.refunds))
    for number in (1, 2, 3):
        version = replace(made_version, number=number)
        await shop.house.payments.apply(fact(None, 0, version=version, references=names, failed_refund=failed))
        after = await shop.house.find(payment)
        assert (after.status, after.refunded_amount) == (PaymentStatus.COMPLETED, Decimal(0))
        assert await shop.house.posted(payment.organization_id) == {"USD": 10}
    with pytest.raises(errors.PaymentProviderDeclined):
        await shop.refund(payment, "back", "4")
    shop.acme.refunds[made.refund_id] = replace(made, references=())
    assert await shop.refund(payment, "again", "10") is False
    assert await shop.house.posted(payment.organization_id) == {"USD": 0}


async def test_checkout_for_a_closed_account_is_not_opened(shop: Shop) -> None:
    org = new_id()
    await shop.house.earn(org, "1", "USD")
    await shop.house.spend(org, "1", "USD")
    await shop.house.close_account(org, "USD")
    with pytest.raises(AccountClosed):
        await shop.open(org)


async def test_repeat_of_a_refund_in_another_currency_is_no_repeat(shop: Shop) -> None:
    payment = await shop.paid_order()
    assert await shop.refund(payment, "back", "4") is False
    with pytest.raises(InvalidArgument):
        await shop.refund(payment, "back", "4", "EUR")


async def test_provider_is_not_asked_for_a_refund_that_a_closed_account_cannot_return(shop: Shop) -> None:
    payment = await shop.paid_order()
    org = payment.organization_id
    await shop.house.spend(org, "10", "USD")
    await shop.house.close_account(org, "USD")
    with pytest.raises(AccountClosed):
        await shop.refund(payment, "closed", "4")
    assert shop.asked_for(payment) == []


async def test_address_of_a_payer_reaches_the_provider_and_is_not_kept(shop: Shop) -> None:
    org = new_id()
    asked = pb.CreateCheckoutRequest(
        organization_id=org,
        request_id="buy",
        user_id=new_id(),
        email="ada@acme.test",
        top_up_amount=Amount(currency_code="USD", value="10"),
        success_url="https://example.com/",
        cancel_url="https://example.com/",
    )
    payment, _ = await shop.checkouts.open(read_purchase(asked))
    assert shop.acme.checkouts[payment.payment_id].email == "ada@acme.test"
    address = """'{"email": "ada@acme.test"}'::jsonb"""
    of_org = "WHERE organization_id = $1::uuid"
    async with shop.house.shards.of(org).raw_connection() as connection:
        assert await connection.fetchval(f"SELECT request @> {address} FROM payments {of_org}", org) is False  # noqa: S608
        assert (await shop.checkouts.open(read_purchase(asked)))[1]
        # What the version before has kept.
        await connection.execute(f"UPDATE payments SET request = request || {address} {of_org}", org)  # noqa: S608
    assert (await shop.checkouts.open(read_purchase(asked)))[1]
    asked.email = "bob@acme.test"
    with pytest.raises(RequestIdReused):
        await shop.checkouts.open(read_purchase(asked))
