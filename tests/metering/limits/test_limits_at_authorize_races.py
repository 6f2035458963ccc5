"""Limits hold exactly, whatever happens at the same time: other processes, repeats, lost answers, changed limits.

A call of `ask` is for 1,000 input and 1,000 output tokens, for which 0.0125 dollars are held.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest

from libs.common import database as database_module
from libs.common.errors import Unavailable
from libs.common.sharding import shard_number
from services.metering.quota.domain import Limit, Window
from tests.metering.limits.support import counted, reserved, set_limit
from tests.metering.support import Metering, Platform, eventually, refused, usage
from tests.metering.test_batch_admission import ALLOWED, DENIED, ask, ends
from tests.shards.support import locked
from tests.support.background import is_background_work
from tests.support.sharded import shard_count
from tollhouse.metering.v1 import admission_pb2

pytestmark = [pytest.mark.own_database, pytest.mark.shards]

PROCESSES = 4


@asynccontextmanager
async def processes(platform: Platform, count: int = PROCESSES) -> AsyncIterator[Sequence[Metering]]:
    """So many processes of metering."""
    async with AsyncExitStack() as stack:
        found = [platform.metering]
        for _ in range(count - 1):
            assert platform.metering_service is not None
            stack.push_async_callback(platform.metering_service.stop, 0)
            found.append(await platform.start_metering())
        yield found


def is_metering(transaction: database_module._RawTransaction) -> bool:
    """Whether a transaction is that of calls of metering. Billing and the workers of both run in the same process."""
    return transaction._database.schema.startswith("metering") and not is_background_work()


async def decided(metering: Metering, request: admission_pb2.AuthorizeRequest) -> admission_pb2.AuthorizeResponse:
    """Return the answer to a call, which is repeated while there is none, as every caller does."""

    async def answer() -> admission_pb2.AuthorizeResponse | None:
        try:
            return await metering.authorize(request)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE):
                raise
            return None

    found = await eventually(answer, lambda one: one is not None)
    assert found is not None
    return found


async def test_of_a_thousand_calls_at_once_in_four_processes_exactly_five_hundred_are_admitted(
    platform: Platform, organization_id: str
) -> None:
    await platform.fund(organization_id)
    async with processes(platform) as all_of_them:
        limit = await set_limit(platform, organization_id, "calls", "500", window=Window.LIFETIME)
        other = await set_limit(platform, organization_id, "tokens", "10000000", metric="total_tokens")

        answers = await asyncio.gather(
            *(
                decided(all_of_them[number % PROCESSES], ask(organization_id, f"call-{number}"))
                for number in range(1000)
            )
        )

        assert [one.decision for one in answers].count(ALLOWED) == 500
        assert await reserved(platform, organization_id, limit, other) == [500, 1_000_000]


async def test_same_calls_in_four_processes_at_once_reserve_once(platform: Platform, organization_id: str) -> None:
    await platform.fund(organization_id)
    async with processes(platform) as all_of_them:
        limit = await set_limit(platform, organization_id, "calls", "30", window=Window.LIFETIME)
        asks = [ask(organization_id, f"call-{number}") for number in range(30)]

        batches = await asyncio.gather(
            *(metering.authorize_batch(asks[:: (-1) ** place]) for place, metering in enumerate(all_of_them))
        )

        assert all(one.decided.decision == ALLOWED for batch in batches for one in batch)
        assert await reserved(platform, organization_id, limit) == [30]


async def test_repeat_takes_nothing_more_and_is_not_refused_by_a_full_limit(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    limit = await set_limit(platform, organization_id, "calls", "2", window=Window.LIFETIME)
    asks = [ask(organization_id, f"call-{number}") for number in range(3)]
    first = await metering.authorize_batch(asks)
    assert ends(first) == ["ALLOWED", "ALLOWED", "LIMIT_EXCEEDED"]

    again = await metering.authorize_batch([*asks, asks[0], ask(organization_id, "call-3")])

    assert ends(again) == ["ALLOWED again", "ALLOWED again", "LIMIT_EXCEEDED", "ALLOWED again", "LIMIT_EXCEEDED"]
    assert [(one.reserved, one.remaining) for one in again[0].decided.limits] == [("2", "0")]
    assert await reserved(platform, organization_id, limit) == [2]
    other = ask(organization_id, "call-0", input_tokens=5)
    assert (await refused(metering.authorize(other)))[1] == "OPERATION_ID_REUSED"
    assert await reserved(platform, organization_id, limit) == [2]


async def test_batch_is_decided_in_its_order_and_later_smaller_calls_may_pass(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    limit = await set_limit(platform, organization_id, "tokens", "100", metric="total_tokens", window=Window.LIFETIME)
    asks = [ask(organization_id, f"call-{size}", max_output_tokens=0) for size in (60, 50, 40, 1, 0)]
    for request, size in zip(asks, (60, 50, 40, 1, 0), strict=True):
        request.input_tokens = size

    outcomes = await metering.authorize_batch(asks)

    assert ends(outcomes) == ["ALLOWED", "LIMIT_EXCEEDED", "ALLOWED", "LIMIT_EXCEEDED", "ALLOWED"]
    # A refusal tells what was left when it was decided, and the others what the batch has left.
    assert [one.decided.limits[0].remaining for one in outcomes] == ["0", "40", "0", "0", "0"]
    assert await reserved(platform, organization_id, limit) == [100]


async def test_operation_that_is_recorded_already_reserves_nothing_when_it_is_authorized(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    limit = await set_limit(platform, organization_id, "calls", "2", window=Window.LIFETIME)
    await metering.record(usage(organization_id, "done"))
    _, before = await counted(platform, organization_id, limit)

    assert (await metering.authorize(ask(organization_id, "done"))).decision == ALLOWED
    assert (await counted(platform, organization_id, limit))[1] == before == 0


async def test_answer_to_a_commit_that_is_lost_neither_takes_twice_nor_loses_the_reservation(
    platform: Platform, metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await platform.fund(organization_id)
    limit = await set_limit(platform, organization_id, "calls", "2", window=Window.LIFETIME)
    commit = database_module._RawTransaction._commit
    lost = 0

    async def commit_and_lose(self: database_module._RawTransaction) -> None:
        nonlocal lost
        await commit(self)
        lost += is_metering(self)
        if is_metering(self) and lost == 1:
            raise Unavailable(dependency="database")

    monkeypatch.setattr(database_module._RawTransaction, "_commit", commit_and_lose)
    outcomes = await metering.authorize_batch([ask(organization_id, name) for name in ("a", "b", "c")])

    assert lost == 2
    assert ends(outcomes) == ["ALLOWED again", "ALLOWED again", "LIMIT_EXCEEDED"]
    assert await reserved(platform, organization_id, limit) == [2]


async def test_transaction_that_is_rolled_back_takes_nothing_and_is_decided_anew(
    platform: Platform, metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await platform.fund(organization_id)
    limit = await set_limit(platform, organization_id, "calls", "2", window=Window.LIFETIME)
    commit = database_module._RawTransaction._commit
    failed = 0

    async def fail_first(self: database_module._RawTransaction) -> None:
        nonlocal failed
        failed += is_metering(self)
        if is_metering(self) and failed == 1:
            await self._roll_back()
            raise Unavailable(dependency="database")
        await commit(self)

    monkeypatch.setattr(database_module._RawTransaction, "_commit", fail_first)
    outcomes = await metering.authorize_batch([ask(organization_id, name) for name in ("a", "b", "c")])

    assert failed == 2
    assert ends(outcomes) == ["ALLOWED", "ALLOWED", "LIMIT_EXCEEDED"]
    assert await reserved(platform, organization_id, limit) == [2]


async def test_attempt_after_the_commit_that_fails_keeps_what_its_batch_has_stored(
    platform: Platform, metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await platform.fund(organization_id)
    limit = await set_limit(platform, organization_id, "calls", "2", window=Window.LIFETIME)
    await metering.authorize(ask(organization_id, "a"))
    from services.metering.admission import store

    find = store.find
    failed = 0

    async def fail_first(*args: object) -> object:
        nonlocal failed
        failed += 1
        if failed == 1:
            raise Unavailable(dependency="database")
        return await find(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "find", fail_first)
    outcomes = await metering.authorize_batch([ask(organization_id, name) for name in ("b", "a", "c")])

    assert failed == 2
    assert ends(outcomes) == ["ALLOWED", "ALLOWED again", "LIMIT_EXCEEDED"]
    assert [(one.reserved, one.remaining) for one in outcomes[0].decided.limits] == [("2", "0")]
    assert await reserved(platform, organization_id, limit) == [2]


async def test_counters_that_were_dropped_are_made_anew(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    limit = await set_limit(platform, organization_id, "calls", "2", window=Window.LIFETIME)
    assert (await metering.authorize(ask(organization_id, "a"))).decision == ALLOWED
    await platform.execute("DELETE FROM metering.limit_counters")

    assert (await metering.authorize(ask(organization_id, "b"))).decision == ALLOWED
    assert await reserved(platform, organization_id, limit) == [1]


async def test_limit_that_changes_while_calls_arrive_holds_for_those_after_it(
    platform: Platform, organization_id: str
) -> None:
    await platform.fund(organization_id)
    async with processes(platform, 2) as both:
        limit = await set_limit(platform, organization_id, "calls", "100", window=Window.LIFETIME)

        async def lower() -> Limit:
            await asyncio.sleep(0.05)
            return await set_limit(platform, organization_id, "calls", "50", window=Window.LIFETIME)

        lowering = asyncio.create_task(lower())
        answers = await asyncio.gather(
            *(decided(both[number % 2], ask(organization_id, f"call-{number}")) for number in range(200))
        )
        await lowering
        admitted = [one.decision for one in answers].count(ALLOWED)

        assert 50 <= admitted <= 100
        assert await reserved(platform, organization_id, limit) == [admitted]
        for metering in both:
            denied = await decided(metering, ask(organization_id, "after"))
            assert (denied.decision, denied.limits[0].max) == (DENIED, "50")


async def test_limits_that_can_not_be_read_fail_the_calls_that_need_them_and_no_others(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    limit = await set_limit(platform, organization_id, "calls", "5", window=Window.LIFETIME)
    shard = shard_number(organization_id, shard_count())
    async with locked(platform.admin_url, "metering", shard, ["limits"]):
        request = ask(organization_id, "call-1")
        stranger = ask(organization_id, "call-2", model="no-such-model")
        outcomes = await metering.authorize_batch([request, stranger])

    assert ends(outcomes) == ["DEPENDENCY_UNAVAILABLE", "MODEL_UNKNOWN"]
    assert await reserved(platform, organization_id, limit) == [0]
    assert (await decided(metering, request)).decision == ALLOWED


@pytest.mark.parametrize("at", ["before the commit", "after it"])
async def test_process_that_dies_around_the_commit_leaves_a_whole_reservation_or_none(
    platform: Platform, organization_id: str, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    await platform.fund(organization_id)
    async with processes(platform, 2) as (dying, other):
        limit = await set_limit(platform, organization_id, "calls", "3", window=Window.LIFETIME)
        commit = database_module._RawTransaction._commit
        died, is_over = asyncio.Event(), asyncio.Event()

        async def die(self: database_module._RawTransaction) -> None:
            if died.is_set() or not is_metering(self):
                await commit(self)
                return
            died.set()
            if at == "after it":
                await commit(self)
            else:
                self._discard()
            await is_over.wait()
            raise Unavailable(dependency="database")

        monkeypatch.setattr(database_module._RawTransaction, "_commit", die)
        asks = [ask(organization_id, f"call-{number}") for number in range(4)]
        lost = asyncio.create_task(dying.authorize_batch(asks))
        await died.wait()
        lost.cancel()
        try:
            outcomes = await other.authorize_batch(asks)
            allowed = "ALLOWED again" if at == "after it" else "ALLOWED"
            assert ends(outcomes) == [allowed] * 3 + ["LIMIT_EXCEEDED"]
            assert await reserved(platform, organization_id, limit) == [3]
        finally:
            is_over.set()
