"""Limits are decided and usage is counted in one statement, and carefully where something has changed meanwhile.

A call of `ask` is for 1,000 input and 1,000 output tokens.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal

import asyncpg
import pytest

from libs.common import database as database_module
from libs.common.database_url import plain_url
from libs.common.errors import Unavailable
from services.metering.admission import store as admission_store
from services.metering.quota import counter_store
from services.metering.quota.counter_store import Change
from services.metering.quota.decisions import place_of
from services.metering.quota.domain import Limit, Window
from services.metering.usage import store as usage_store
from tests.metering.limits.settling import ZERO, Limits, limits_of, of, processes, settling
from tests.metering.support import Metering, Platform, eventually, usage
from tests.metering.test_batch_admission import ALLOWED, DENIED, ask, ends
from tests.support.background import is_background_work

pytestmark = [pytest.mark.own_database, pytest.mark.usefixtures("patient_locks"), pytest.mark.shards]

CALLS = of("requests", Window.LIFETIME)
TOKENS = of("total_tokens", Window.LIFETIME)


@pytest.fixture
async def limits(platform: Platform, organization_id: str) -> AsyncIterator[Limits]:
    await platform.fund(organization_id)
    async with limits_of(platform) as found:
        yield found


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The schemas in which calls began transactions of several statements; those of background work do not count."""
    found: list[str] = []
    begin = database_module._RawTransaction._prepare

    async def note(self: database_module._RawTransaction) -> None:
        if not is_background_work():
            found.append(self._database.schema)
        await begin(self)

    monkeypatch.setattr(database_module._RawTransaction, "_prepare", note)
    return found


async def test_calls_that_fit_are_decided_and_counted_in_one_statement_each(
    metering: Metering, limits: Limits, organization_id: str, begun: list[str]
) -> None:
    calls, tokens = await limits.set(organization_id, CALLS), await limits.set(organization_id, TOKENS)
    begun.clear()
    names = [f"call-{number}" for number in range(5)]

    assert ends(await metering.authorize_batch([ask(organization_id, name) for name in names])) == ["ALLOWED"] * 5
    assert await limits.counted(organization_id, tokens) == (ZERO, 10_000)
    await metering.settle_batch([settling(organization_id, name, 30) for name in names])
    await metering.record(usage(organization_id, "free"))

    assert not [schema for schema in begun if schema.startswith("metering")]
    assert await limits.counted(organization_id, calls) == (6, ZERO)
    assert await limits.counted(organization_id, tokens) == (5 * 30 + 1_100, ZERO)


async def test_processes_that_authorize_and_settle_under_the_same_limits_take_no_locks_first(
    platform: Platform, limits: Limits, organization_id: str, begun: list[str]
) -> None:
    calls, tokens = await limits.set(organization_id, CALLS), await limits.set(organization_id, TOKENS)
    async with processes(platform, 2) as servers:
        # The counters exist, so that nothing but what is looked at here happens below.
        await servers[0].authorize(ask(organization_id, "first"))
        begun.clear()

        async def batches(name: str) -> None:
            for number, server in enumerate(servers * 3):
                names = [f"{name}-{number}-{place}" for place in range(4)]
                answers = await server.authorize_batch([ask(organization_id, one) for one in names])
                assert ends(answers) == ["ALLOWED"] * 4
                await servers[number % 2 - 1].settle_batch([settling(organization_id, one, 30) for one in names])

        await asyncio.gather(*(batches(f"call-{number}") for number in range(4)))

    assert not [schema for schema in begun if schema.startswith("metering")]
    assert await limits.counted(organization_id, calls) == (4 * 6 * 4, 1)
    assert await limits.counted(organization_id, tokens) == (4 * 6 * 4 * 30, 2_000)


async def test_calls_that_are_authorized_while_their_usage_is_recorded_keep_no_reservation(
    platform: Platform, limits: Limits, organization_id: str
) -> None:
    calls, tokens = await limits.set(organization_id, CALLS), await limits.set(organization_id, TOKENS)
    names = [f"call-{number}" for number in range(40)]
    async with processes(platform, 2) as servers:
        await asyncio.gather(
            *(servers[number % 2].authorize(ask(organization_id, name)) for number, name in enumerate(names)),
            *(servers[number // 2 % 2].record(usage(organization_id, name)) for number, name in enumerate(names)),
        )
    assert await limits.counted(organization_id, calls) == (40, ZERO)
    assert await limits.counted(organization_id, tokens) == (40 * 1_100, ZERO)


async def test_call_that_does_not_fit_is_decided_carefully(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    calls = await limits.set(organization_id, CALLS, "2")
    outcomes = await metering.authorize_batch([ask(organization_id, f"call-{number}") for number in range(3)])
    assert ends(outcomes) == ["ALLOWED", "ALLOWED", "LIMIT_EXCEEDED"]
    assert await limits.counted(organization_id, calls) == (ZERO, 2)


@pytest.mark.parametrize("name", ["add_within_limits", "record_counted"])
async def test_answer_that_is_lost_after_the_statement_neither_counts_twice_nor_loses_anything(
    metering: Metering, limits: Limits, organization_id: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tokens = await limits.set(organization_id, TOKENS)
    module = admission_store if name == "add_within_limits" else usage_store
    run = getattr(module, name)
    lost = 0

    async def run_and_lose(*arguments: object, **more: object) -> object:
        nonlocal lost
        answer = await run(*arguments, **more)
        lost += 1
        if lost == 1:
            raise Unavailable(dependency="database")
        return answer

    monkeypatch.setattr(module, name, run_and_lose)
    assert (await metering.authorize(ask(organization_id, "call"))).decision == ALLOWED
    assert await limits.counted(organization_id, tokens) == (ZERO, 2_000)
    await metering.settle(settling(organization_id, "call", 30))
    assert lost >= 1
    assert await limits.counted(organization_id, tokens) == (30, ZERO)


async def test_limit_that_fills_up_while_a_call_waits_for_its_counter_refuses_the_call(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    tokens = await limits.set(organization_id, TOKENS, "2500")
    async with _held(limits, organization_id, [tokens]) as (connection, keys):
        waiting = asyncio.create_task(metering.authorize(ask(organization_id, "call")))
        await _until_waiting(limits.platform)
        await counter_store.add(connection, dict.fromkeys(keys, Change(Decimal(1_000), ZERO)))
        limits.damaged = True  # Nothing that is stored says who has used it.
    assert (await waiting).decision == DENIED
    assert await limits.counted(organization_id, tokens) == (1_000, ZERO)


async def test_limit_that_fills_up_after_another_counter_was_changed_leaves_that_one_as_it_was(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    filling = await limits.set(organization_id, TOKENS, "2500")
    earlier = await limits.set(organization_id, CALLS)
    while _counter_id(earlier) > _counter_id(filling):
        earlier = await limits.set(organization_id, CALLS)
    async with _held(limits, organization_id, [filling]) as (connection, keys):
        waiting = asyncio.create_task(metering.authorize(ask(organization_id, "call")))
        await _until_waiting(limits.platform)
        await counter_store.add(connection, dict.fromkeys(keys, Change(Decimal(1_000), ZERO)))
        limits.damaged = True  # Nothing that is stored says who has used it.
    assert (await waiting).decision == DENIED
    assert await limits.counted(organization_id, earlier) == (ZERO, ZERO)
    assert await limits.counted(organization_id, filling) == (1_000, ZERO)


async def test_usage_recorded_while_its_authorization_waits_leaves_nothing_reserved(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    tokens = await limits.set(organization_id, TOKENS)
    async with _held(limits, organization_id, [tokens]) as (connection, keys):
        waiting = asyncio.create_task(metering.authorize(ask(organization_id, "call")))
        await _until_waiting(limits.platform)
        await connection.execute(
            "INSERT INTO usage_operations (organization_id, operation_id, fingerprint, usage_id, occur_time)"
            " VALUES ($1, 'call', 'x', gen_random_uuid(), now())",
            organization_id,
        )
        await counter_store.add(connection, dict.fromkeys(keys, Change(Decimal(7), ZERO)))
        limits.damaged = True  # The usage itself is missing.
    await waiting
    assert await limits.counted(organization_id, tokens) == (7, ZERO)


async def test_cancellation_while_a_settlement_waits_gives_back_once(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    tokens = await limits.set(organization_id, TOKENS)
    assert (await metering.authorize(ask(organization_id, "call"))).decision == ALLOWED
    async with _held(limits, organization_id, [tokens]) as (connection, keys):
        waiting = asyncio.create_task(metering.settle(settling(organization_id, "call", 30)))
        await _until_waiting(limits.platform)
        await connection.execute(
            "UPDATE authorizations SET cancelled = true, limits_released = true WHERE organization_id = $1",
            organization_id,
        )
        await counter_store.add(connection, dict.fromkeys(keys, Change(ZERO, Decimal(-2_000))))
    await waiting
    assert await limits.counted(organization_id, tokens) == (30, ZERO)


async def test_counter_in_which_a_careful_decision_reserves_nothing_is_changed_all_the_same(
    metering: Metering, limits: Limits, organization_id: str
) -> None:
    """Usage that is recorded in one statement sees by its number that an authorization was written under the lock."""
    await limits.set(organization_id, of("requests", Window.HOUR, sliding=True))
    tokens = await limits.set(organization_id, TOKENS)
    request = ask(organization_id, "call", max_output_tokens=0)
    request.input_tokens = 0
    assert (await metering.authorize(request)).decision == ALLOWED
    async with limits.database(organization_id).raw_connection() as connection:
        numbers = "SELECT authorized FROM limit_counters WHERE organization_id = $1 AND limit_id = $2"
        assert await connection.fetchval(numbers, organization_id, tokens.limit_id) == 1


def _counter_id(limit: Limit) -> str:
    return place_of(limit, "", datetime.now(UTC)).counter.counter_id


@asynccontextmanager
async def _held(
    limits: Limits, organization_id: str, held: Collection[Limit]
) -> AsyncIterator[tuple[database_module.RawConnection, list[counter_store.Key]]]:
    """Hold the locks on the counters of limits until the end, as a decision of another process does."""
    places = await limits.authorize(organization_id, "other", dict.fromkeys(held, 0))
    keys = [(organization_id, place.counter.counter_id) for place in places]
    async with limits.database(organization_id).raw_transaction() as connection:
        await counter_store.lock(connection, keys)
        yield connection, keys


async def _until_waiting(platform: Platform) -> None:
    """Return when a statement waits for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    connection = await asyncpg.connect(plain_url(platform.admin_url))
    try:
        await eventually(lambda: connection.fetchval(query), lambda found: found >= 1)
    finally:
        await connection.close()
