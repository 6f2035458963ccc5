"""Facts in any order, repeated and at once, end as in the order of their versions; compared with a plain reference."""

import asyncio
import random
from dataclasses import dataclass, field, replace
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.common.ids import new_id
from services.billing.payment.domain import Brings, Credits, Payment, PaymentType, due_back
from services.billing.payment.provider import FactStatus, FailedRefund, PaymentFact
from services.billing.payment.said import merge, told_by
from tests.billing.payment_house import PaymentHouse, at, fact, open_payments, reference

pytestmark = pytest.mark.shards


@dataclass(frozen=True)
class Said:
    """What one object says at one moment, and how much is spent before it is heard."""

    status: str | None
    refunded: int | None
    dispute: tuple[int, int | None] | None
    """Which one, and what it is over: None for all of the payment in another currency, 0 when it is won."""
    failed: tuple[int, int, int] | None
    """Which refund has failed, the version at which it was made, and its amount."""
    spent: int


SAID = st.builds(
    Said,
    st.sampled_from([None, "PENDING", "FAILED", "COMPLETED", "COMPLETED"]),
    st.none() | st.integers(0, 30),
    st.none() | st.tuples(st.integers(0, 1), st.none() | st.integers(0, 12) | st.just(31)),
    st.none() | st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 12)),
    st.integers(0, 3),
)


@dataclass
class Reference:
    """What must be there when all has been said: told in the order of the versions, in a few lines."""

    status: str = "PENDING"
    refunded: int = 0
    refunded_version: int | None = None
    failed: set[int] = field(default_factory=set)
    disputes: dict[int, int] = field(default_factory=dict)

    def hear(self, version: int, said: Said) -> None:
        if said.status is not None and self.status != "COMPLETED":
            self.status = said.status
        if said.refunded is not None:
            self.refunded, self.refunded_version = said.refunded, version
        if said.failed is not None and said.failed[0] not in self.failed:
            which, made, amount = said.failed
            self.failed.add(which)
            if self.refunded_version is not None and made <= self.refunded_version < version:
                self.refunded -= amount
        if said.dispute is not None:
            which, over = said.dispute
            self.disputes[which] = 30 if over is None else over

    @property
    def outcome(self) -> tuple[str, Decimal]:
        """The payment's status, and what is left of its 15 credits for 30 USD."""
        if self.status != "COMPLETED":
            return self.status, Decimal(0)
        disputed = sum(self.disputes.values())
        refunded = max(self.refunded, 0)
        kept = Decimal(max(30 - refunded - disputed, 0)) / 2
        if disputed:
            return "DISPUTED", kept
        return ("REFUNDED" if not kept else "PARTIALLY_REFUNDED" if refunded else "COMPLETED"), kept


def _fact(checkout: Payment, version: int, said: Said) -> PaymentFact:
    which, over = said.dispute or (None, None)
    named = [reference("DISPUTE", f"d-{which}-{checkout.payment_id}")] if said.dispute else []
    failed = None
    if said.failed:
        named.append(reference("REFUND", f"r-{said.failed[0]}-{checkout.payment_id}"))
        failed = FailedRefund(Decimal(said.failed[2]), at(said.failed[1]).time, None)
    order, charge = reference("ORDER", f"o-{checkout.payment_id}"), reference("CHARGE", f"c-{checkout.payment_id}")
    return fact(
        checkout,
        version,
        references=(order, charge, *named),
        status=None if said.status is None else FactStatus(said.status),
        amount=checkout.amount,
        currency_code="USD",
        refunded_amount=None if said.refunded is None else Decimal(said.refunded),
        disputed=over != 0 if said.dispute else None,
        disputed_amount=Decimal(over or 25),
        failed_refund=failed,
        disputed_currency_code="EUR" if over is None else "USD",
    )


async def _live(house: PaymentHouse, told: list[Said], seed: int) -> None:
    choose = random.Random(seed)
    checkout = await house.checkout(amount=Decimal(30), credits=Credits("CREDIT", Decimal(15)))
    facts = [_fact(checkout, version, said) for version, said in enumerate(told)]
    heard = facts + choose.choices(facts, k=len(facts) // 2)
    choose.shuffle(heard)
    at_once, one_by_one = heard[: len(heard) // 3], heard[len(heard) // 3 :]
    await asyncio.gather(*(house.payments.apply(one) for one in at_once))
    spent = 0
    for number, one in enumerate(one_by_one):
        if told[number % len(told)].spent:
            spent += told[number % len(told)].spent
            await house.spend(checkout.organization_id, str(told[number % len(told)].spent))
        await house.payments.apply(one)
    expected = Reference()
    for version, said in enumerate(told):
        expected.hear(version, said)
    after = await house.find(checkout)
    posted = (await house.posted(checkout.organization_id)).get("CREDIT", Decimal(0))
    assert (after.status.value, posted + spent) == expected.outcome


@settings(max_examples=600, deadline=None, database=None)
@given(st.lists(SAID, min_size=2, max_size=7), st.randoms(use_true_random=False))
def test_what_follows_from_what_was_said_is_the_same_in_any_order(told: list[Said], choose: random.Random) -> None:
    now, brings = at(0).time, Credits("CREDIT", Decimal(15))
    kept = PaymentType.CREDIT_PACK, "acme", Decimal(30), "USD", Brings.CREDITS, brings, False, "test", now, now
    payment = Payment("organization", "payment", *kept, said={})
    facts = [_fact(payment, version, said) for version, said in enumerate(told)]
    heard = facts + choose.choices(facts, k=2)
    choose.shuffle(heard)
    for one in heard:
        payment = replace(payment, said=merge(payment.said, told_by(one)))
    expected = Reference()
    for version, said in enumerate(told):
        expected.hear(version, said)
    left = brings.amount - due_back(payment) if payment.base is FactStatus.COMPLETED else Decimal(0)
    assert (payment.status.value, left) == expected.outcome


async def test_any_order_repetition_and_interleaving_ends_as_in_order(database_urls: dict[str, str]) -> None:
    async with open_payments(database_urls["billing"]) as house:
        loop = asyncio.get_running_loop()

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(st.lists(SAID, min_size=1, max_size=7), st.integers(0, 2**32))
        def check(told: list[Said], seed: int) -> None:
            asyncio.run_coroutine_threadsafe(_live(house, told, seed), loop).result(30)

        await asyncio.to_thread(check)
        assert await house.findings() == []


async def test_what_is_used_is_written_off_where_the_platform_says_so(database_urls: dict[str, str]) -> None:
    async with open_payments(database_urls["billing"], into_debt=False) as house:
        for brought in ("grant", "money"):
            fields: dict[str, object] = {"brings": Brings.MONEY, "credits": Credits("CREDIT", Decimal(10))}
            checkout = await house.checkout(new_id(), **fields if brought == "money" else {})
            order = (reference("ORDER", f"o-{checkout.payment_id}"),)
            told = {"references": order, "status": FactStatus.COMPLETED, "amount": Decimal(10), "currency_code": "USD"}
            await house.payments.apply(fact(checkout, 1, **told))
            await house.spend(checkout.organization_id, "4")
            await house.payments.apply(fact(checkout, 2, refunded_amount=Decimal(10), **told))
            after = await house.find(checkout)
            assert (after.taken_credits + after.taken_money, after.written_off) == (Decimal(6), Decimal(4))
            assert await house.posted(checkout.organization_id) == {"CREDIT": Decimal(0)}
            await house.payments.apply(fact(checkout, 3, refunded_amount=Decimal(0), **told))
            assert await house.posted(checkout.organization_id) == {"CREDIT": Decimal(6)}
        assert await house.findings() == []
