"""Metering's cache of what may be used: no answer is used after a change of it, and none for longer than it holds."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

import grpc
import pytest

from libs.common.clock import Clock, SystemClock
from libs.common.errors import Unavailable
from libs.common.ports import free_port
from libs.common.shards import Shards
from services.billing.subscription.domain import Subject
from services.metering.clients import entitlements as client_module
from services.metering.clients.entitlements import Entitlement, Entitlements, EntitlementsClient, Limit
from tests.billing.entitlement_calls import clearing, override, plan_that_says, said, set_override
from tests.billing.plan_calls import everything, limit
from tests.billing.subscriptions import MODEL, USER, put, subscription
from tests.billing.support import BillingServer, Ledger, organization
from tests.billing.test_entitlements import at
from tests.metering.held_answers import HeldAnswers, Streams
from tests.metering.support import eventually
from tests.support.callers import Callers
from tests.support.clock import FixedClock, ShiftedClock

WITHIN_S = 1.0


@dataclass
class Following:
    """A client that follows billing's changes."""

    client: EntitlementsClient
    held: HeldAnswers

    async def text(self, organization_id: str, user_id: str = "", model: str = "") -> object:
        found = await self.client.entitlements_of(organization_id, user_id, model)
        return found.values["tier"].value if "tier" in found.values else None

    async def until(self, organization_id: str, wanted: object, user_id: str = "", model: str = "") -> float:
        """Wait until the cached value is the wanted one; return how long that took."""
        began_s = time.monotonic()
        await eventually(lambda: self.text(organization_id, user_id, model), lambda text: text == wanted)
        return time.monotonic() - began_s

    async def forgotten(self, organization_id: str, user_id: str = "", model: str = "") -> float:
        """Wait until nothing is known of a subject; return how long that took."""

        async def known() -> Entitlements | None:
            return self.client.known(organization_id, user_id, model)

        began_s = time.monotonic()
        await eventually(known, lambda found: found is None)
        return time.monotonic() - began_s

    async def current(self, *, current: bool = True) -> None:
        """Wait until cached answers may be used, or may not."""

        async def is_current() -> bool:
            return self.client.is_current

        await eventually(is_current, lambda found: found == current)


@asynccontextmanager
async def following(
    ledger: Ledger, callers: Callers, clock: Clock | None = None, **options: int
) -> AsyncIterator[Following]:
    held, streams = HeldAnswers(callers.service("metering")), Streams(callers.service("metering"))
    async with grpc.aio.insecure_channel(ledger.target, interceptors=[held, streams]) as channel:
        client = EntitlementsClient(channel, clock or SystemClock(), **options)
        watching = asyncio.create_task(client.watch())
        try:
            found = Following(client, held)
            await found.current()
            yield found
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


@pytest.fixture
def server(callers: Callers, database_urls: dict[str, str]) -> BillingServer:
    return BillingServer(callers, database_urls["billing"])


@pytest.fixture
async def ledger(server: BillingServer) -> AsyncIterator[Ledger]:
    async with server.start() as ledger:
        yield ledger


async def test_a_change_of_any_kind_takes_effect_within_a_second(
    ledger: Ledger, callers: Callers, billing_shards: Shards
) -> None:
    plan = await plan_that_says(ledger, "ours", said("tier", "ours"))
    orgs = [organization() for _ in range(5)]
    async with following(ledger, callers) as metering:
        for org in orgs:
            assert await metering.text(org, USER) is None
            await put(billing_shards, subscription(Subject.ORGANIZATION, organization_id=org, plan=plan))
            assert await metering.until(org, "ours", USER) < WITHIN_S
            await set_override(ledger, override(org, user_id=USER))
            assert await metering.until(org, "gold", USER) < WITHIN_S
            assert await metering.text(org) == "ours"
            await set_override(ledger, clearing(org, user_id=USER))
            assert await metering.until(org, "ours", USER) < WITHIN_S


async def test_an_answer_is_asked_for_once_and_dropped_for_its_organization_alone(
    ledger: Ledger, callers: Callers
) -> None:
    org, other = organization(), organization()
    async with following(ledger, callers) as metering:
        client = metering.client
        assert client.known(org) is None
        await asyncio.gather(*(metering.text(org) for _ in range(20)), *(metering.text(other) for _ in range(20)))
        await metering.text(org, USER, MODEL)
        assert (client.asked_count, len(client)) == (3, 3)
        await set_override(ledger, override(org))
        assert await metering.forgotten(org) < WITHIN_S
        assert (client.known(org, USER, MODEL), client.known(other) is None) == (None, False)
        assert await metering.text(org, USER, MODEL) == "gold"
        assert client.asked_count == 4
        assert client.failed_count == 0


async def test_an_answer_that_a_change_has_overtaken_is_not_kept(ledger: Ledger, callers: Callers) -> None:
    org = organization()
    async with following(ledger, callers) as metering:
        await metering.text(org, "", MODEL)
        metering.held.answered.clear()
        metering.held.open.clear()
        asking = asyncio.create_task(metering.text(org))
        await metering.held.answered.wait()
        await set_override(ledger, override(org))
        assert await metering.forgotten(org, "", MODEL) < WITHIN_S
        metering.held.open.set()
        assert await asking is None
        assert metering.client.known(org) is None
        assert await metering.text(org) == "gold"


async def test_an_answer_ends_when_it_says_without_any_message(
    server: BillingServer, callers: Callers, billing_shards: Shards
) -> None:
    clock = ShiftedClock()
    async with server.start(clock) as ledger, following(ledger, callers, clock) as metering:
        org, while_ = organization(), timedelta(minutes=10)
        await set_override(ledger, override(org, expire_time=at(clock.now() + while_)))
        assert await metering.text(org) == "gold"
        assert await metering.text(org) == "gold"
        assert metering.client.asked_count == 1
        clock.advance(while_)
        assert metering.client.known(org) is None
        assert await metering.text(org) is None
        assert metering.client.asked_count == 2


async def test_an_answer_of_a_billing_that_is_late_is_used_for_a_second(
    ledger: Ledger, callers: Callers, billing_shards: Shards
) -> None:
    clock = FixedClock(SystemClock().now())
    async with following(ledger, callers, clock) as metering:
        org, now = organization(), clock.now()
        plan = await plan_that_says(ledger, "ours", said("tier", "ours"))
        past = now - timedelta(days=31), now - timedelta(days=1)
        # Nothing is due for it, so the run of periods leaves it alone.
        await put(billing_shards, subscription(Subject.ORGANIZATION, organization_id=org, plan=plan, period=past))
        await metering.until(org, "ours")

        async def known() -> Entitlements | None:
            """What is known of the answer, which is asked for again if the stream has told of the change only now."""
            await metering.text(org)
            return metering.client.known(org)

        found = await eventually(known, lambda one: one is not None)
        assert found is not None
        assert found.period == past
        clock.advance(timedelta(seconds=1))
        assert metering.client.known(org) is None
        assert await metering.text(org) == "ours"


async def test_while_billing_is_silent_no_answer_is_used_and_those_without_change_are_good_again(
    server: BillingServer, callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_SILENCE_MAX_S", 1.5)
    org, other, port = organization(), organization(), free_port()
    async with AsyncExitStack() as stack:
        async with server.start(port=port) as billing:
            metering = await stack.enter_async_context(following(billing, callers))
            client = metering.client
            await metering.text(org)
            await metering.text(other)
        await metering.current(current=False)
        assert client.known(org) is None
        with pytest.raises(Unavailable):
            await metering.text(org)
        assert client.failed_count == 1
        # It has changed by the time billing is back; the other one has not.
        async with server.start() as elsewhere:
            await set_override(elsewhere, override(org))
        async with server.start(port=port):
            await metering.current()
            asked = client.asked_count
            assert await metering.text(other) is None
            assert client.asked_count == asked
            assert await metering.until(org, "gold") < WITHIN_S


async def test_a_client_that_is_told_to_start_over_drops_everything(ledger: Ledger, callers: Callers) -> None:
    org = organization()
    async with following(ledger, callers) as metering:
        assert await metering.text(org) is None
        await plan_that_says(ledger, "default", said("tier", "default"))
        assert await metering.until(org, "default") < WITHIN_S
        assert len(metering.client) == 1


async def test_the_number_of_answers_is_bounded(ledger: Ledger, callers: Callers) -> None:
    async with following(ledger, callers, answers_max=3) as metering:
        orgs = [organization() for _ in range(5)]
        for org in orgs:
            await metering.text(org)
        assert [metering.client.known(org) is not None for org in orgs] == [False, False, True, True, True]


async def test_every_kind_of_value_arrives_as_it_was_agreed(ledger: Ledger, callers: Callers) -> None:
    org = organization()
    await plan_that_says(ledger, "default", *everything().entitlements)
    await set_override(ledger, override(org, "seats", entitlement=limit("seats", "0.5", metric="items")))
    async with following(ledger, callers) as metering:
        found = await metering.client.entitlements_of(org)
    by_default: dict[str, bool | Decimal | str | Limit] = {
        "api_access": True,
        "white_label": False,
        "region": "Zürich \N{FACE WITH TEARS OF JOY}",
        "no_text": "",
        "requests_per_minute": Limit("requests", "MINUTE", Decimal(5), soft=False, currency_code=""),
        "budget": Limit("spend", "PERIOD", Decimal(20), soft=True, currency_code="USD"),
        "tokens": Limit("total_tokens", "LIFETIME", None, soft=False, currency_code=""),
    }
    assert found.values == {
        "seats": Entitlement(Limit("items", "MINUTE", Decimal("0.5"), soft=False, currency_code=""), "OVERRIDE", None),
        **{code: Entitlement(value, "PLATFORM_DEFAULT", None) for code, value in by_default.items()},
    }
    assert (found.period, found.until_time) == (None, None)
