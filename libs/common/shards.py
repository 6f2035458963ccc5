"""Organization shards: what belongs to organizations lives in N schemas of equal shape, `billing_00` and so on.

In which one an organization is follows from its id alone. A statement touches one of them, and beside it only what
belongs to the whole platform, which is in the service's own schema. So each shard can be on a machine of its own.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NoReturn

import asyncpg
import structlog

from libs.common.connections import STATEMENT_TIMEOUT_MS, RawConnection, open_connections
from libs.common.database import Database, open_database
from libs.common.errors import Refusal, Unavailable
from libs.common.settings import CONNECTIONS_OF_A_SHARD
from libs.common.sharding import PLATFORM, newest_shard_version, shard_number, shard_schema

_log = structlog.get_logger("shards")

VISIT_NAME: Final = "visit"
"""What the names of the tasks begin with that do background work in a shard."""

_VISITS_AT_ONCE: Final = 4
_PLATFORM_POOL_SIZE: Final = 3
_REPORT_POOL_SIZE: Final = 4
_VISITS_PER_S: Final = 20
"""How many shards a second one kind of background work looks at: each look costs a statement or two, about 1 ms."""
_RETRY_DELAY_MAX_S: Final = 30.0
_DOUBLINGS_MAX: Final = 8


class Shards:
    """The databases of the shards, by their numbers. They share one pool of connections."""

    def __init__(self, databases: Sequence[Database]) -> None:
        self._databases = tuple(databases)

    def number_of(self, organization_id: str) -> int:
        """Return the number of the shard in which this organization is."""
        count = len(self._databases)
        return shard_number(organization_id, count) if count > 1 else 0

    def of(self, organization_id: str) -> Database:
        """Return the database in which this organization is."""
        return self._databases[self.number_of(organization_id)]

    def __getitem__(self, number: int) -> Database:
        return self._databases[number]

    def __iter__(self) -> Iterator[Database]:
        return iter(self._databases)

    def __len__(self) -> int:
        return len(self._databases)

    async def visit(self, visit: Callable[[Database], Awaitable[object]], *, every_s: float) -> NoReturn:
        """Call `visit` for each shard again and again, until cancelled, for work that nobody calls for.

        A shard is visited every `every_s` seconds; where there are so many shards that this would be more than 20
        visits a second, less often. A few visits run at a time, and never two of one shard, so a slow shard delays no
        other. A visit that fails is logged and made again after a growing delay.
        """
        every_s = max(every_s, len(self._databases) / _VISITS_PER_S)
        turns = asyncio.Semaphore(_VISITS_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for database in self._databases:
                group.create_task(
                    _visit_forever(visit, database, every_s, turns), name=f"{VISIT_NAME} {database.schema}"
                )
        raise AssertionError("the tasks run until they are cancelled")

    async def visit_all(self, visit: Callable[[Database], Awaitable[object]]) -> None:
        """Call `visit` once for each shard, a few at a time. A visit that fails is logged."""
        turns = asyncio.Semaphore(_VISITS_AT_ONCE)
        await asyncio.gather(*(_visit_once(visit, database, turns) for database in self._databases))

    async def open(self) -> None:
        """Make the first connection, and the check that comes with it."""
        await self._databases[0].open()

    async def close(self) -> None:
        """Close the pool of connections."""
        await self._databases[0].close()


async def _visit_forever(
    visit: Callable[[Database], Awaitable[object]], database: Database, every_s: float, turns: asyncio.Semaphore
) -> NoReturn:
    failures = 0
    while True:
        failures = 0 if await _visit_once(visit, database, turns) else min(failures + 1, _DOUBLINGS_MAX)
        delay_s = every_s if not failures else min(every_s * 2**failures, max(_RETRY_DELAY_MAX_S, every_s))
        await asyncio.sleep(delay_s * random.uniform(0.9, 1.1))


async def _visit_once(
    visit: Callable[[Database], Awaitable[object]], database: Database, turns: asyncio.Semaphore
) -> bool:
    """Visit a shard; log a failure, and return whether there was none."""
    try:
        async with turns:
            await visit(database)
    except Refusal as refusal:
        _log.warning("background work refused", schema=database.schema, reason=refusal.reason)
    except Exception as error:  # noqa: BLE001 -- one failed visit must not end the work.
        _log.error("background work failed", schema=database.schema, exc_info=error)
    else:
        return True
    return False


def open_shards(
    url: str,
    *,
    schema: str,
    count: int,
    pool_size: int = 8,
    acquire_timeout_ms: int = 1_000,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    statement_cache_size: int = 100,
    plan_by_key: bool = False,
    check: Callable[[], Awaitable[None]] | None = None,
) -> Shards:
    """One pool of connections for all shards of a service whose own schema is `schema`.

    `check` is awaited before anything is done over the first connection; what it raises is raised by that use. The
    number of connections is `pool_size` for any number of shards. A single shard may use its share of them, or if that
    is less, four, but no more than half.
    """
    connections = open_connections(
        url,
        search_path=_search_path(schema, 0),
        check=check,
        application_name=f"tollhouse-{schema}",
        shared=count > 1,
        pool_size=pool_size,
        acquire_timeout_ms=acquire_timeout_ms,
        statement_timeout_ms=statement_timeout_ms,
        statement_cache_size=statement_cache_size,
        plan_by_key=plan_by_key,
    )
    if count == 1:
        return Shards([Database(connections, schema=shard_schema(schema, 0))])
    return Shards(
        [
            Database(
                connections,
                schema=shard_schema(schema, number),
                search_path=_search_path(schema, number),
                connections_max=max(1, pool_size // count, min(pool_size // 2, CONNECTIONS_OF_A_SHARD)),
            )
            for number in range(count)
        ]
    )


@dataclass(frozen=True, slots=True)
class ShardedDatabases:
    """What a service with shards works on."""

    platform: Database
    """The service's own schema: what belongs to no organization, and the number of shards."""
    shards: Shards
    reports: Shards
    """The same shards, for checks that read whole tables: few connections, with a longer statement timeout."""

    def home_of(self, organization_id: str) -> Database:
        """Return where an organization's rows are, and those of PLATFORM."""
        return self.platform if organization_id == PLATFORM else self.shards.of(organization_id)

    def report_home_of(self, organization_id: str) -> Database:
        """Return the same for checks. Those of PLATFORM are short."""
        return self.platform if organization_id == PLATFORM else self.reports.of(organization_id)

    async def close(self) -> None:
        """Close the pools of the shards; the platform's is the server's to close."""
        await self.reports.close()
        await self.shards.close()


def open_databases(
    url: str,
    *,
    schema: str,
    count: int,
    pool_size: int,
    report_timeout_ms: int,
    statement_cache_size: int,
) -> ShardedDatabases:
    """Open what a service with `count` shards works on. Nothing is connected until first use.

    Every use of a shard raises ShardsDiffer while the database has other shards than `count` (see `check_shards`).
    """
    platform = open_database(
        url, schema=schema, pool_size=_PLATFORM_POOL_SIZE, statement_cache_size=statement_cache_size
    )
    shards = open_shards(
        url,
        schema=schema,
        count=count,
        pool_size=pool_size,
        statement_cache_size=statement_cache_size,
        plan_by_key=True,
        check=partial(check_shards, platform, schema, count),
    )
    reports = open_shards(
        url,
        schema=schema,
        count=count,
        pool_size=_REPORT_POOL_SIZE,
        statement_timeout_ms=report_timeout_ms,
        statement_cache_size=statement_cache_size,
        check=shards.open,
    )
    return ShardedDatabases(platform, shards, reports)


def _search_path(schema: str, number: int) -> str:
    return f'"{shard_schema(schema, number)}", "{schema}"'


class ShardsDiffer(Unavailable):
    """The database does not have the shards that this process expects; `problem` says what to do.

    To callers it is a database that is not there: the process ends, and another one may answer them.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(dependency="database")
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


async def check_shards(database: Database, context: str, count: int) -> None:
    """Compare the shards in the database with what this process expects.

    `database` is the context's own schema. A database whose shards are all at one version that this code does not know
    has been migrated by a newer one, and is accepted.

    Raises:
        ShardsDiffer: their number differs, or one is missing or at another version.
    """
    async with database.raw_connection() as connection:
        recorded = await _recorded_count(connection, context)
        if recorded != count:
            raise ShardsDiffer(
                f"TOLLHOUSE_SHARDS is {count}, but {context} has {recorded} in this database. The number is fixed when"
                f" an installation is made: set TOLLHOUSE_SHARDS={recorded}."
            )
        versions = {number: await _version_of(connection, shard_schema(context, number)) for number in range(count)}
    expected = max(newest_shard_version(context), *(found or "" for found in versions.values()))
    behind = [shard_schema(context, number) for number, found in versions.items() if found != expected]
    if behind:
        named = ", ".join(behind[:5]) + (f" and {len(behind) - 5} more" if len(behind) > 5 else "")
        raise ShardsDiffer(
            f"The shards of {context} are not all at version {expected}: {named}. Run `tollhouse migrate`; it goes on"
            " where it was interrupted."
        )


async def _recorded_count(connection: RawConnection, context: str) -> int:
    try:
        count = await connection.fetchval(f"SELECT shard_count FROM {context}.sharding")  # noqa: S608 -- a name of ours.
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        count = None
    if count is None:
        raise ShardsDiffer(f"The schema of {context} is missing or from before shards. Run `tollhouse migrate`.")
    return int(count)


async def _version_of(connection: RawConnection, schema: str) -> str | None:
    try:
        found = await connection.fetchval(f"SELECT version_num FROM {schema}.alembic_version")  # noqa: S608 -- of ours.
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return None
    return str(found) if found else None
