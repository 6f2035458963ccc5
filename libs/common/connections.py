"""Pools of connections to Postgres. A pool may be shared by several schemas, each with a search path of its own.

A connection of a shared pool keeps the search path of its last user, and the pool prefers to give it to the same one
again: Postgres plans prepared statements anew after each change of the search path.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import asyncpg
from sqlalchemy import event, exc
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import memoized_property
from sqlalchemy.util.concurrency import greenlet_spawn
from sqlalchemy.util.queue import AsyncAdaptedQueue, Empty

from libs.common import pooler
from libs.common.database_url import plain_url
from libs.common.known_types import Connection
from libs.common.session_settings import CLUSTER_SETTINGS, LOCK_TIMEOUT_MS

if TYPE_CHECKING:
    RawConnection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    RawConnection = asyncpg.Connection

STATEMENT_TIMEOUT_MS: Final = 2_000
"""How long a statement may take, where nothing else is said."""
SEARCH_PATH: Final = "search_path"
"""Where the pool notes which search path a connection has."""
STATEMENT_FAILED: Final = "statement_failed"
"""Where the pool notes that a statement of the transaction has failed."""
wanted_path: ContextVar[str | None] = ContextVar("wanted search path", default=None)
"""The search path for which a connection is being taken from a shared pool."""
_CONNECT_TIMEOUT_S = 2.0
_PLAN_BY_KEY: Final = {
    **dict.fromkeys(("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"), "off"),
    "plan_cache_mode": "force_generic_plan",
}
"""Left to choose, Postgres plans a statement with few keys anew each time and comes to the same plan: to post one debit
took 390 µs of CPU in Postgres with that, and takes 227 without."""
_COMMAND_MARGIN_S = 3.0
"""How much longer than the server's statement timeout the driver waits: reached only when the network is dead."""


class Connections:
    """A pool of connections, logged in as one role, which one or several `Database` objects share."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        settings: Mapping[str, str],
        pooled: bool,
        timeout_s: float,
        check: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self.engine = engine
        self._check = check
        self.snapshots = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self.settings = settings
        self.pooled = pooled
        self.timeout_s = timeout_s
        """How long a caller waits for a connection."""
        self._opened = False
        self._opening: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Makes the first connection, on which the dialect learns about the server; later calls do nothing.

        The attempt must not be interrupted, so it runs in a task of its own, and all callers wait for the same attempt.
        """
        if self._opened:
            return
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open_first())
            self._opening.add_done_callback(self._note_opened)
        await asyncio.shield(self._opening)

    async def _open_first(self) -> None:
        await greenlet_spawn(self._touch)
        if self._check is not None:
            await self._check()

    def _touch(self) -> None:
        self.engine.sync_engine.pool.connect().close()

    async def close(self) -> None:
        """Closes the pool. Connections still in use, or still being made, end when they are given back."""
        event.listen(self.engine.sync_engine.pool, "checkin", _end)
        await self.engine.dispose()

    def _note_opened(self, attempt: asyncio.Future[None]) -> None:
        self._opened = not attempt.cancelled() and attempt.exception() is None
        self._opening = None


def open_connections(
    url: str,
    *,
    search_path: str,
    application_name: str,
    shared: bool = False,
    pool_size: int = 8,
    acquire_timeout_ms: int = 1_000,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    idle_in_transaction_timeout_ms: int = 5_000,
    statement_cache_size: int = 100,
    plan_by_key: bool = False,
    check: Callable[[], Awaitable[None]] | None = None,
) -> Connections:
    """A pool of connections. Nothing is connected until first use.

    `shared` is for a pool that several `Database` objects use with search paths of their own. `check` is awaited once,
    before the first use of a connection; while it raises, every use does.

    `statement_cache_size=0` is for a transaction-pooling proxy such as PgBouncer, see `libs.common.pooler`. Jobs that
    rightly take longer, such as reports, open a small pool of their own with a longer `statement_timeout_ms`.
    `plan_by_key` is for pools whose every statement finds its rows by a key. Postgres keeps a plan that it made while a
    table was empty; with nothing but nested loops over indexes to choose from, that plan is the one a full table needs.
    For this a statement that joins a table to keys compares the column that leads its indexes as in
    `t.organization_id = ANY (ARRAY[k.organization_id])`. With a plain `=` the order of an index counts as useful for a
    merge join. Then Postgres may read the whole index and compare each row with all keys, which is cheapest as long as
    there are hardly any rows. Likewise an EXISTS with a plain `=` may read the whole index into a hash table.
    """
    pooled = statement_cache_size == 0
    name = {"application_name": application_name}
    session_settings = {
        **CLUSTER_SETTINGS,
        "idle_in_transaction_session_timeout": str(idle_in_transaction_timeout_ms),
        "jit": "off",
        "lock_timeout": str(lock_timeout_ms),
        "search_path": search_path,
        "statement_timeout": str(statement_timeout_ms),
        "TimeZone": "UTC",
        **(_PLAN_BY_KEY if plan_by_key else {}),
    }
    dsn = plain_url(url)

    async def connect(*_: object, **__: object) -> RawConnection:
        return await asyncpg.connect(
            dsn,
            connection_class=Connection,
            timeout=_CONNECT_TIMEOUT_S,
            command_timeout=statement_timeout_ms / 1000 + _COMMAND_MARGIN_S,
            server_settings=name if pooled else name | session_settings,
            statement_cache_size=statement_cache_size,
            max_cached_statement_lifetime=0,
        )

    cache = {"prepared_statement_cache_size": statement_cache_size}
    # Behind a pooler SQLAlchemy's statements have no name either: a name would stay behind on the server.
    unnamed = {"prepared_statement_name_func": str} if pooled else {}
    engine = create_async_engine(
        f"postgresql+{pooler.DIALECT if pooled else 'asyncpg'}://",
        connect_args={"async_creator_fn": connect, **cache, **unnamed},
        # Behind a pooler each transaction sets its own search path, so any connection is as good as another.
        poolclass=_SharedPool if shared and not pooled else AsyncAdaptedQueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=acquire_timeout_ms / 1000,
        pool_use_lifo=True,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine.pool, "checkout", _replace_if_closed)
    event.listen(engine.sync_engine, "handle_error", _remember_failure)
    return Connections(
        engine, settings=session_settings, pooled=pooled, timeout_s=acquire_timeout_ms / 1000, check=check
    )


class _IdleConnections(AsyncAdaptedQueue[ConnectionPoolEntry]):
    """The idle connections of a shared pool.

    It gives out the connection that is set to the wanted search path already, and another one only where no more can be
    opened: Postgres plans prepared statements anew after each change of the search path.
    """

    closing = False
    """Whether the pool takes out its connections to close them, whatever their search path."""

    @memoized_property
    def _queue(self) -> "asyncio.Queue[ConnectionPoolEntry]":
        return _PathQueue(self.maxsize)

    def get_nowait(self) -> ConnectionPoolEntry:
        if not self.closing and not any(map(_is_on_wanted_path, cast("_PathQueue", self._queue).entries)):
            raise Empty
        return super().get_nowait()


class _PathQueue(asyncio.Queue[ConnectionPoolEntry]):
    """Gives out the last entry on the wanted path, else the entry that has been idle longest."""

    entries: list[ConnectionPoolEntry]

    def _init(self, maxsize: int) -> None:
        self._queue = self.entries = []  # the name that the base class asks for its length.

    def _put(self, item: ConnectionPoolEntry) -> None:
        self.entries.append(item)

    def _get(self) -> ConnectionPoolEntry:
        for place in reversed(range(len(self.entries))):
            if _is_on_wanted_path(self.entries[place]):
                return self.entries.pop(place)
        return self.entries.pop(0)


class _SharedPool(AsyncAdaptedQueuePool):
    _queue_class = _IdleConnections

    def dispose(self) -> None:
        cast("_IdleConnections", self._pool).closing = True
        super().dispose()


def _is_on_wanted_path(entry: ConnectionPoolEntry) -> bool:
    return entry.info.get(SEARCH_PATH) == wanted_path.get()


def _replace_if_closed(driver_adapter: object, record: object, proxy: PoolProxiedConnection) -> None:
    """Replaces a pooled connection that the server has closed. The driver knows this without a round trip."""
    connection = getattr(driver_adapter, "driver_connection", None)
    if connection is not None and connection.is_closed():
        raise exc.DisconnectionError("the server closed this connection while it was idle")


def _end(driver_adapter: object, record: object) -> None:
    """Ends a connection that is given back to a closed pool, which would keep it open."""
    connection = getattr(driver_adapter, "driver_connection", None)
    if connection is not None:
        connection.terminate()


def _remember_failure(context: ExceptionContext) -> None:
    if context.connection is not None and not context.connection.invalidated:
        context.connection.info[STATEMENT_FAILED] = True
