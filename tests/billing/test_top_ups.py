"""Accounts are topped up by themselves: once below the threshold, as often as allowed, one at a time."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal

import pytest
from structlog.testing import capture_logs

from libs.common.errors import InvalidArgument, NotFound
from libs.common.ids import new_id
from services.billing import deleted_organizations
from services.billing import payment_errors as errors
from services.billing.payment import store
from services.billing.payment.domain import Brings, Credits, Payment, PaymentStatus, PaymentType, undelivered
from services.billing.payment.provider import FactStatus, NewCharge, PaymentFact, ProviderDeclined, ProviderDown
from services.billing.payment.top_up_domain import TopUpPolicy
from services.billing.payment.top_ups import TopUps
from tests.billing.payment_house import PaymentHouse, fact, open_payments, paid, reference
from tests.billing.test_payment_providers import Acme
from tests.support.clock import DEFAULT_NOW, FixedClock

pytestmark = pytest.mark.shards


@dataclass
class Shop:
    """A provider, and what tops accounts up through it."""

    house: PaymentHouse
    acme: Acme
    top_ups: TopUps
    clock: FixedClock

    async def customer(self, value: str = "10") -> str:
        """Return an organization that has paid once through the provider."""
        org = new_id()
        credits_ = Credits("USD", Decimal(value))
        money: dict[str, object] = {"type": PaymentType.TOP_UP, "brings": Brings.MONEY, "credits": credits_}
        checkout = await self.house.checkout(org, **money | {"amount": Decimal(value)})
        await self.house.payments.apply(paid(checkout, references=(reference("CUSTOMER", f"cus_{org}"),)))
        return org

    async def policy(self, org: str, **fields: object) -> TopUpPolicy:
        known: dict[str, object] = {
            "enabled": True,
            "currency_code": "USD",
            "threshold": Decimal(5),
            "top_up_amount": Decimal(20),
            "target_balance": None,
            "provider": "acme",
            "external_customer_id": "",
            "max_per_day": 1,
            "max_per_month": 2,
            "actor": "",
            "update_time": self.clock.now(),
        }
        return await self.top_ups.set(TopUpPolicy(org, **known | fields))  # type: ignore[arg-type]

    async def sweep(self) -> None:
        for database in self.house.shards:
            await self.top_ups.sweep(database)

    def charged(self, org: str) -> list[Decimal]:
        return [one.amount for one in self.acme.charges.values() if one.customer == f"cus_{org}"]

    async def last(self, org: str) -> Payment:
        """Return the last top-up that the provider has charged."""
        payment_id = [one.payment_id for one in self.acme.charges.values() if one.customer == f"cus_{org}"][-1]
        async with self.house.shards.of(org).raw_connection() as connection:
            found = await store.find(connection, org, payment_id)
        assert found is not None
        return found


@pytest.fixture(scope="module")
async def shop(module_database_urls: dict[str, str]) -> AsyncIterator[Shop]:
    acme, clock = Acme(), FixedClock()
    async with open_payments(module_database_urls["billing"], clock=clock) as house:
        top_ups = TopUps(house.shards, house.references, house.payments, {"acme": acme}, clock, is_test=False)
        yield Shop(house, acme, top_ups, clock)
        assert await house.findings() == []


async def test_an_account_is_topped_up_once_below_its_threshold_and_as_often_as_allowed(shop: Shop) -> None:
    shop.clock.set(DEFAULT_NOW)
    org = await shop.customer()
    await shop.policy(org)
    await shop.sweep()
    assert shop.charged(org) == []
    await shop.house.spend(org, "6", "USD")
    await asyncio.gather(*(shop.sweep() for _ in range(5)))
    assert shop.charged(org) == [20]
    assert await shop.house.posted(org) == {"USD": 24}
    for day, charges in ((0, 1), (1, 2), (2, 2)):
        shop.clock.set(DEFAULT_NOW + timedelta(days=day))
        await shop.house.spend(org, "22", "USD")
        await shop.sweep()
        assert len(shop.charged(org)) == charges, day
    shop.clock.set(DEFAULT_NOW + timedelta(days=30))
    await shop.sweep()
    assert len(shop.charged(org)) == 3


async def test_a_target_balance_is_reached_from_where_the_account_is(shop: Shop) -> None:
    org = await shop.customer()
    await shop.policy(org, top_up_amount=None, target_balance=Decimal(50))
    await shop.house.spend(org, "12.345", "USD")
    await shop.sweep()
    assert shop.charged(org) == [Decimal("52.35")]
    assert await shop.house.posted(org) == {"USD": Decimal("50.005")}


async def test_nobody_is_charged_for_an_account_that_is_closed(shop: Shop) -> None:
    org = await shop.customer()
    await shop.policy(org)
    await shop.house.spend(org, "10", "USD")
    await shop.house.close_account(org, "USD")
    await shop.sweep()
    assert shop.charged(org) == []
    assert (await shop.top_ups.get(org)).pending_payment_id is None


async def test_a_deleted_organization_is_not_topped_up_and_what_was_asked_for_is_found_out(shop: Shop) -> None:
    idle, pending = await shop.customer(), await shop.customer()
    for org in (idle, pending):
        await shop.policy(org, max_per_day=5)
    await shop.house.spend(pending, "6", "USD")
    shop.acme.failures.append(ProviderDown("connection lost"))
    await shop.sweep()
    for org in (idle, pending):
        for _ in range(2):
            await shop.top_ups.switch_off(org, "the organization was deleted")
        await shop.house.spend(org, "40", "USD")
    await shop.top_ups.switch_off(new_id(), "the organization was deleted")
    await shop.sweep()
    await shop.sweep()
    assert [shop.charged(org) for org in (idle, pending)] == [[], [20]]
    off = await shop.top_ups.get(pending)
    assert (off.enabled, off.paused_reason, off.pending_payment_id) == (False, "the organization was deleted", None)


async def test_a_policy_of_a_deleted_organization_is_not_switched_on_again(shop: Shop) -> None:
    org = await shop.customer()
    await shop.policy(org)
    async with shop.house.shards.of(org).raw_transaction() as connection:
        await deleted_organizations.note(connection, org, shop.clock.now())
    await shop.top_ups.switch_off(org, deleted_organizations.REASON)
    with pytest.raises(NotFound):
        await shop.policy(org)
    assert not (await shop.policy(org, enabled=False)).enabled


async def test_a_currency_without_cents_is_topped_up_by_whole_units(shop: Shop) -> None:
    org = await shop.customer()
    yen: dict[str, object] = {"currency_code": "JPY", "threshold": Decimal(100)}
    with pytest.raises(InvalidArgument):
        await shop.policy(org, **yen, top_up_amount=Decimal("99.5"))
    await shop.policy(org, **yen, top_up_amount=None, target_balance=Decimal("200.5"))
    await shop.sweep()
    assert shop.charged(org) == [201]
    assert await shop.house.posted(org) == {"USD": 10, "JPY": 201}


async def test_a_charge_whose_answer_is_lost_stays_pending_and_is_made_once(shop: Shop) -> None:
    org = await shop.customer()
    await shop.policy(org)
    await shop.house.spend(org, "6", "USD")
    shop.acme.failures.append(ProviderDown("connection lost"))
    await shop.sweep()
    pending = (await shop.top_ups.get(org)).pending_payment_id
    assert pending is not None
    assert await shop.house.posted(org) == {"USD": 4}
    await shop.policy(org, max_per_day=5)
    await shop.sweep()
    assert shop.charged(org) == [20]
    assert (await shop.top_ups.get(org)).pending_payment_id is None
    assert await shop.house.posted(org) == {"USD": 24}


async def test_a_charge_that_is_not_answered_for_a_day_is_not_asked_for_again_and_counts_if_it_was_made(
    shop: Shop,
) -> None:
    shop.clock.set(DEFAULT_NOW)
    org = await shop.customer()
    await shop.policy(org)
    await shop.house.spend(org, "6", "USD")
    shop.acme.failures.append(ProviderDown("connection lost"))
    await shop.sweep()
    pending = (await shop.top_ups.get(org)).pending_payment_id
    assert pending is not None
    # The provider has forgotten the id by now: asked again, it would charge again.
    charge = shop.acme.charges.pop(pending)
    shop.clock.advance(timedelta(hours=24))
    await shop.sweep()
    await shop.sweep()
    off = await shop.top_ups.get(org)
    assert (off.enabled, off.pending_payment_id, "did not say" in off.paused_reason) == (False, None, True)
    assert pending not in shop.acme.charges
    assert await shop.house.posted(org) == {"USD": 4}
    told = fact(None, 1, checkout_id=pending, status=FactStatus.COMPLETED, amount=charge.amount, currency_code="USD")
    await shop.house.payments.apply(told)
    assert await shop.house.posted(org) == {"USD": 24}


async def test_a_process_that_dies_before_it_asks_leaves_a_top_up_that_the_next_one_makes(shop: Shop) -> None:
    org = await shop.customer()
    await shop.policy(org)
    await shop.house.spend(org, "6", "USD")
    _, begun = await shop.top_ups._begin(org)
    _, again = await shop.top_ups._begin(org)
    assert begun is not None
    assert again is not None
    assert begun.payment_id == again.payment_id
    await shop.sweep()
    assert list(shop.acme.charges).count(begun.payment_id) == 1
    assert await shop.house.posted(org) == {"USD": 24}


async def test_a_declined_top_up_switches_the_policy_off_until_it_is_set_again(shop: Shop) -> None:
    org = await shop.customer()
    before = await shop.policy(org)
    await shop.house.spend(org, "6", "USD")
    shop.acme.failures.append(ProviderDeclined("card expired"))
    await shop.sweep()
    await shop.sweep()
    off = await shop.top_ups.get(org)
    assert (off.enabled, off.paused_reason, off.pending_payment_id) == (False, "card expired", None)
    assert shop.charged(org) == []
    assert (await shop.policy(org)).paused_reason == before.paused_reason == ""
    await shop.sweep()
    assert shop.charged(org) == [20]


async def test_who_has_no_saved_method_or_no_such_provider_is_refused_by_name(shop: Shop) -> None:
    org = new_id()
    with pytest.raises(errors.NoSavedMethod):
        await shop.policy(org)
    with pytest.raises(errors.PaymentProviderCannot):
        await shop.policy(org, provider="manual")
    with pytest.raises(errors.PaymentProviderUnknown):
        await shop.policy(org, provider="nobody")
    customer = await shop.customer()
    shop.acme.charges_saved_methods = False
    try:
        with pytest.raises(errors.PaymentProviderCannot):
            await shop.policy(customer)
        assert not (await shop.policy(customer, enabled=False)).enabled
    finally:
        shop.acme.charges_saved_methods = True
    first = await shop.policy(customer)
    assert replace(await shop.policy(customer), update_time=first.update_time) == first


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"refunded_amount": Decimal(20)}, "was refunded"),
        ({"refunded_amount": Decimal(19)}, "was refunded"),
        ({"disputed": True}, "is disputed"),
    ],
    ids=["refund", "refund of a part", "dispute"],
)
async def test_nothing_more_is_charged_after_a_top_up_was_taken_back_until_the_policy_is_set_again(
    shop: Shop, said: dict[str, object], reason: str
) -> None:
    shop.clock.set(DEFAULT_NOW)
    org = await shop.customer()
    await shop.policy(org, max_per_day=5, max_per_month=5)
    await shop.house.spend(org, "8", "USD")
    await shop.sweep()
    shop.clock.advance(timedelta(minutes=1))
    top_up = await shop.last(org)
    await shop.house.payments.apply(fact(top_up, 2, **said))
    await shop.sweep()
    await shop.sweep()
    off = await shop.top_ups.get(org)
    assert shop.charged(org) == [20]
    assert not off.enabled
    assert off.paused_reason == f"top-up {top_up.payment_id} {reason}"
    shop.clock.advance(timedelta(minutes=1))
    await shop.policy(org, max_per_day=5, max_per_month=5)
    await shop.sweep()
    assert shop.charged(org) == [20, 20]
    on = await shop.top_ups.get(org)
    assert (on.enabled, on.paused_reason) == (True, "")


async def test_a_refund_during_a_pending_top_up_lets_this_one_end_and_no_other_begin(shop: Shop) -> None:
    shop.clock.set(DEFAULT_NOW)
    org = await shop.customer()
    await shop.policy(org, max_per_day=5, max_per_month=5)
    await shop.house.spend(org, "8", "USD")
    await shop.sweep()
    first = await shop.last(org)
    await shop.house.spend(org, "20", "USD")
    shop.acme.failures.append(ProviderDown("connection lost"))
    shop.clock.advance(timedelta(minutes=1))
    await shop.sweep()
    await shop.house.payments.apply(fact(first, 2, refunded_amount=Decimal(20)))
    shop.clock.advance(timedelta(minutes=1))
    await shop.sweep()
    assert shop.charged(org) == [20, 20]
    assert await shop.house.posted(org) == {"USD": 2}
    await shop.sweep()
    off = await shop.top_ups.get(org)
    assert shop.charged(org) == [20, 20]
    assert (off.enabled, off.pending_payment_id) == (False, None)
    assert first.payment_id in off.paused_reason


async def test_a_dispute_that_was_won_and_a_refund_before_the_policy_was_set_stop_nothing(shop: Shop) -> None:
    shop.clock.set(DEFAULT_NOW)
    org = await shop.customer()
    await shop.policy(org, max_per_day=5, max_per_month=5)
    await shop.house.spend(org, "8", "USD")
    await shop.sweep()
    await shop.house.payments.apply(fact(await shop.last(org), 2, refunded_amount=Decimal(1)))
    shop.clock.advance(timedelta(minutes=1))
    await shop.policy(org, max_per_day=6, max_per_month=6)
    await shop.house.spend(org, "20", "USD")
    await shop.sweep()
    for minutes, disputed in ((2, True), (3, False)):
        await shop.house.payments.apply(fact(await shop.last(org), minutes, disputed=disputed))
    await shop.house.spend(org, "20", "USD")
    await shop.sweep()
    assert shop.charged(org) == [20, 20, 20]
    assert (await shop.top_ups.get(org)).enabled


async def test_a_top_up_whose_account_is_closed_meanwhile_is_pending_until_the_account_is_open_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.clock.set(DEFAULT_NOW)
    org, charge_saved = await shop.customer(), shop.acme.charge_saved
    await shop.policy(org)
    await shop.house.spend(org, "10", "USD")

    async def charge_and_close(charge: NewCharge) -> PaymentFact:
        told = await charge_saved(charge)
        await shop.house.close_account(org, "USD")
        return told

    monkeypatch.setattr(shop.acme, "charge_saved", charge_and_close)
    with capture_logs() as logs:
        for _ in range(4):
            await shop.sweep()
            shop.clock.advance(timedelta(hours=8))
    assert [one["event"] for one in logs if one["log_level"] == "error"] == ["charged and not applied"]
    off, pending = await shop.top_ups.get(org), await shop.last(org)
    assert (off.enabled, off.pending_payment_id, pending.status) == (False, pending.payment_id, PaymentStatus.PENDING)
    assert "the account that it is for is closed" in off.paused_reason
    assert undelivered(pending) == 20
    await shop.house.open_account(org)
    await shop.house.settle()
    await shop.sweep()
    assert shop.charged(org) == [20]
    assert (await shop.last(org)).status is PaymentStatus.COMPLETED
    assert await shop.house.posted(org) == {"USD": 20}
    assert (await shop.top_ups.get(org)).pending_payment_id is None


async def test_a_top_up_that_was_charged_otherwise_than_asked_for_is_left_to_people_and_not_called_failed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.clock.set(DEFAULT_NOW)
    org, charge_saved = await shop.customer(), shop.acme.charge_saved
    await shop.policy(org)
    await shop.house.spend(org, "6", "USD")

    async def charge_more(charge: NewCharge) -> PaymentFact:
        return replace(await charge_saved(charge), amount=charge.amount + 1)

    monkeypatch.setattr(shop.acme, "charge_saved", charge_more)
    with capture_logs() as logs:
        for _ in range(4):
            await shop.sweep()
            shop.clock.advance(timedelta(hours=8))
    assert [one["event"] for one in logs if one["log_level"] == "error"] == ["charged and not applied"]
    off = await shop.top_ups.get(org)
    assert (off.enabled, "of another amount" in off.paused_reason) == (False, True)
    assert shop.charged(org) == [20]
    assert (await shop.last(org)).status is PaymentStatus.PENDING
