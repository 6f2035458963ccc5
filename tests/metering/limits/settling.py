"""Limits, calls that have reserved something, and what counters have, in one line each.

Calls are authorized by direct statements here, as admission writes them.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from libs.common.clock import SystemClock
from libs.common.database import Database
from libs.common.ids import new_id
from libs.common.integrity.verification import Verification
from libs.common.shards import Shards, open_shards
from services.metering.limit_invariants import COUNTERS
from services.metering.quota import counter_store, counters, store
from services.metering.quota.counter_store import Change
from services.metering.quota.counters import Counters
from services.metering.quota.decisions import Place, Take, place_of
from services.metering.quota.domain import Entry, Limit, Scope, Shape, Terms, Window
from tests.metering.support import Metering, Platform, settlement
from tests.support.invariants import findings_of
from tests.support.sharded import shard_count
from tollhouse.metering.v1 import admission_pb2, model_pb2, quota_pb2

ZERO: Final = Decimal(0)
PRICE: Final = Decimal("0.0025")
"""What 1,000 input tokens of gpt-4o cost."""

_AUTHORIZE: Final = """
WITH noted AS (
    INSERT INTO lapse_checks (organization_id, operation_id, check_time)
    SELECT $1::uuid, $2::text, $3::timestamptz + interval '10 minutes'
)
INSERT INTO authorizations (organization_id, operation_id, fingerprint, model, input_tokens, max_output_tokens,
    hold_ttl_ms, price_version_id, currency_code, amount, create_time, environment, counters, reserved)
SELECT $1::uuid, $2::text, '', v.model_id, 0, 0, 600000, v.price_version_id, v.currency_code, 0, $3::timestamptz, $4,
    $5::uuid[], $6::numeric[]
FROM metering.price_versions v WHERE v.model_id = 'gpt-4o' ORDER BY v.create_time LIMIT 1
"""


def of(metric: str, window: Window, *, scope: Scope = Scope.ORGANIZATION, **more: object) -> Shape:
    """Return the shape of a limit."""
    shape = Shape(metric, "USD" if metric == "spend" else "", window, False, "", 0, scope, "", "")
    return shape._replace(**more)  # type: ignore[arg-type]


def settling(
    organization_id: str, operation_id: str, read: int, made: int = 0, **fields: object
) -> admission_pb2.SettleRequest:
    """Return the settlement of a call with so many input and output tokens."""
    request = settlement(organization_id, operation_id, **fields)
    request.tokens.CopyFrom(model_pb2.TokenCounts(input=read, output=made))
    return request


class Limits:
    """The limits and counters of a platform's organizations, beside its processes."""

    def __init__(self, platform: Platform, shards: Shards) -> None:
        self.platform = platform
        self.shards = shards
        self.limits: list[tuple[str, Limit]] = []
        self.damaged = False
        """Whether the test has damaged what is stored, so that the invariants do not hold."""

    def database(self, organization_id: str) -> Database:
        return self.shards.of(organization_id)

    async def set(
        self, organization_id: str, shape: Shape, maximum: str | None = "1000000", *, burst: str = "0"
    ) -> Limit:
        """Set a limit. A process that has read those of the organization already sees it within two seconds."""
        name = f"limit-{len(self.limits)}"
        limit = Limit(new_id(), name, shape, Terms(None if maximum is None else Decimal(maximum), burst=Decimal(burst)))
        now = datetime.now(UTC)
        async with self.database(organization_id).raw_transaction() as connection:
            entry = Entry(limit, await store.next_revision(connection), now, now)
            assert await store.add(connection, organization_id, entry)
        self.limits.append((organization_id, limit))
        return limit

    async def delete(self, organization_id: str, limit: Limit) -> None:
        async with self.database(organization_id).raw_transaction() as connection:
            await store.next_revision(connection)
            await store.delete(connection, organization_id, limit.limit_id)

    async def authorize(
        self,
        organization_id: str,
        operation_id: str,
        reserved: Mapping[Limit, Decimal | int | str],
        *,
        at: datetime | None = None,
        environment: str = "LIVE",
        subject: str = "",
    ) -> list[Place]:
        """Authorize a call of gpt-4o that reserves something in each limit, at a moment; return where."""
        moment = at or datetime.now(UTC)
        places = [place_of(limit, subject, moment) for limit in reserved]
        amounts = [Decimal(amount) for amount in reserved.values()]
        made = Counters(self.shards, SystemClock())
        takes = [(organization_id, Take(place, ZERO, asked=False)) for place in places]
        database = self.database(organization_id)
        await made.create(database, takes)
        ids = [place.counter.counter_id for place in places]
        keys = {(organization_id, one): Change(ZERO, amount) for one, amount in zip(ids, amounts, strict=True)}
        async with database.raw_transaction() as connection:
            await counter_store.lock(connection, keys)
            await connection.execute(
                _AUTHORIZE, organization_id, operation_id, moment, environment, ids or None, amounts or None
            )
            await counter_store.add(connection, keys)
        return places

    async def give_back(self, organization_id: str, operations: Sequence[str]) -> None:
        """Give back what calls have reserved, as a lapse does."""
        async with self.database(organization_id).raw_transaction() as connection:
            await counters.give_back(connection, [(organization_id, one) for one in operations])

    async def counted(self, organization_id: str, limit: Limit) -> tuple[object, object]:
        """Return what is used and reserved of a limit, in all windows together."""
        async with self.database(organization_id).raw_connection() as connection:
            row = await connection.fetchrow(
                "SELECT coalesce(sum(used), 0), coalesce(sum(reserved), 0) FROM limit_counters"
                " WHERE organization_id = $1 AND limit_id = $2",
                organization_id,
                limit.limit_id,
            )
        assert row is not None
        return row[0], row[1]

    async def windows(self, organization_id: str, limit: Limit) -> dict[datetime, Decimal]:
        """Return what is used of a limit in each window that has a counter, by its start."""
        async with self.database(organization_id).raw_connection() as connection:
            rows = await connection.fetch(
                "SELECT window_start, used FROM limit_counters WHERE organization_id = $1 AND limit_id = $2",
                organization_id,
                limit.limit_id,
            )
        return {row[0]: row[1] for row in rows}

    async def assert_consistent(self) -> None:
        """Counters equal usage and open authorizations, wherever ranges end, and nothing else is wrong either."""
        await self.platform.settled()
        assert await self.platform.metering.findings() == []
        for rows_max in (1, 3):
            assert await findings_of(Verification(self.shards, SystemClock(), (COUNTERS,), rows_max=rows_max)) == []


@asynccontextmanager
async def limits_of(platform: Platform) -> AsyncIterator[Limits]:
    """Look at the limits of a platform; when the test is done, its invariants hold."""
    shards = open_shards(platform.urls["metering"], schema="metering", count=shard_count())
    try:
        limits = Limits(platform, shards)
        yield limits
        if not limits.damaged:
            await limits.assert_consistent()
    finally:
        await shards.close()


@asynccontextmanager
async def processes(platform: Platform, count: int) -> AsyncIterator[list[Metering]]:
    """Run further processes' worth of metering beside the platform's own; yield all of them."""
    found = [platform.metering, *[await platform.start_metering() for _ in range(count - 1)]]
    try:
        yield found
    finally:
        # The platform stops the one that it started last.
        for one in found[:-1]:
            await one.service.stop(0)


def told(limits: Sequence[quota_pb2.LimitStatus]) -> dict[str, tuple[str, str, str]]:
    """Return what an answer says of each limit: used, reserved and remaining."""
    return {one.name: (one.used, one.reserved, one.remaining) for one in limits}


def first_of_month(moment: datetime, months_before: int = 0) -> datetime:
    """Return the beginning of a month."""
    first = moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    for _ in range(months_before):
        first = (first - timedelta(days=1)).replace(day=1)
    return first
