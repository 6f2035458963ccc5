"""The next batch of usage is prepared while the one before is written, and what is stored does not show it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from libs.common.database import RawConnection
from libs.common.ids import new_id
from services.metering.quota.domain import Window
from services.metering.usage import store
from services.metering.usage.proposals import Proposals
from services.metering.usage.rows import Rows
from tests.metering.limits.settling import ZERO, limits_of, of
from tests.metering.support import Metering, Platform, usage
from tollhouse.metering.v1 import usage_pb2 as pb

GATHERED = 16
"""So many calls in one request are a batch of their own."""
WITHIN_S = 20.0


def batch(organization_id: str, prefix: str, count: int = GATHERED) -> list[pb.RecordUsageRequest]:
    return [usage(organization_id, f"{prefix}-{number}") for number in range(count)]


def repeated(outcomes: Sequence[pb.UsageOutcome]) -> list[str]:
    """Return the operation ids of those that were recorded before; all must be recorded."""
    assert all(one.HasField("recorded") for one in outcomes)
    return [one.operation_id for one in outcomes if one.recorded.replayed]


async def test_batch_is_priced_while_the_one_before_is_written_and_is_written_after_it(
    metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, propose = store.record, Proposals.propose
    begun, priced = asyncio.Event(), asyncio.Event()
    running: set[int] = set()
    together = 0

    async def record_and_watch(connection: RawConnection, rows: Rows, **more: Any) -> set[str]:
        nonlocal together
        running.add(id(rows))
        together = max(together, len(running))
        begun.set()
        try:
            # The first batch is written for as long as it takes to price the second one.
            await asyncio.wait_for(priced.wait(), WITHIN_S)
            return await record(connection, rows, **more)
        finally:
            running.discard(id(rows))

    def propose_and_watch(self: Proposals, work: Any, *more: Any) -> Any:
        if work.operation_id == "second-0":
            priced.set()
        return propose(self, work, *more)

    monkeypatch.setattr(store, "record", record_and_watch)
    monkeypatch.setattr(Proposals, "propose", propose_and_watch)
    first = asyncio.create_task(metering.record_batch(batch(organization_id, "first")))
    await asyncio.wait_for(begun.wait(), WITHIN_S)
    second = await metering.record_batch([*batch(organization_id, "second"), *batch(organization_id, "first", 3)])

    assert repeated(await first) == []
    assert repeated(second) == ["first-0", "first-1", "first-2"]
    assert together == 1


@pytest.mark.own_database
@pytest.mark.usefixtures("patient_locks")
async def test_usages_of_a_batch_count_in_their_own_limits_and_repeats_among_them_in_none(
    platform: Platform, metering: Metering
) -> None:
    ids = [new_id() for _ in range(3)]
    for one in ids:
        await platform.fund(one)
    async with limits_of(platform) as limits:
        calls = [await limits.set(one, of("requests", Window.LIFETIME)) for one in ids[:2]]
        tokens = await limits.set(ids[0], of("total_tokens", Window.LIFETIME))
        mixed = [one for number in range(8) for one in (usage(each, f"call-{number}") for each in ids)]

        assert repeated(await metering.record_batch(mixed[:12])) == []
        assert repeated(await metering.record_batch(mixed)) == [one.operation_id for one in mixed[:12]]

        assert [await limits.counted(one, limit) for one, limit in zip(ids, calls, strict=False)] == [(8, ZERO)] * 2
        assert await limits.counted(ids[0], tokens) == (8 * 1_100, ZERO)
