"""A service's access to Postgres: a connection pool, two interfaces to it, and driver errors turned into refusals.

`transaction()` gives SQLAlchemy Core; `raw_transaction()` gives the driver's own connection from the same pool, for
the measured hot paths. The body runs in the caller's task. If the caller is cancelled, a commit in progress is still
awaited, and a connection whose statement was interrupted is closed rather than returned to the pool. So a cancelled
call never leaves half a transaction, and the next caller never gets a connection in an unknown state.

Several `Database` objects may share a pool, each with a search path of its own (see `libs.common.shards`). A connection
keeps the search path of its last user, and the pool prefers to give it to the same one again.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, TypeAlias, cast

import asyncpg
from sqlalchemy import event, exc, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import memoized_property
from sqlalchemy.util.concurrency import greenlet_spawn
from sqlalchemy.util.queue import AsyncAdaptedQueue, Empty

from libs.common import pooler
from libs.common.database_errors import ConstraintViolation as ConstraintViolation
from libs.common.database_errors import LostNode as LostNode
from libs.common.database_errors import refusal_for, violation
from libs.common.database_errors import violated_constraint as violated_constraint
from libs.common.database_url import plain_url
from libs.common.errors import Unavailable
from libs.common.session_settings import CLUSTER_SETTINGS, LOCK_TIMEOUT_MS

if TYPE_CHECKING:
    RawConnection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    RawConnection = asyncpg.Connection

Transaction: TypeAlias = AsyncConnection
"""What a use case passes to its stores, under a name that is independent of the driver."""

_DRIVER_ERRORS = (
    exc.SQLAlchemyError,
    exc.EmulatedDBAPIException,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
STATEMENT_TIMEOUT_MS = 2_000
"""How long a statement may take, where nothing else is said."""
_CONNECT_TIMEOUT_S = 2.0
_OTHER_WAYS = ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin")
_STATEMENT_FAILED = "statement_failed"
_SEARCH_PATH = "search_path"
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

    def _note_opened(self, attempt: asyncio.Future[None]) -> None:
        self._opened = not attempt.cancelled() and attempt.exception() is None
        self._opening = None


class Database:
    """Access to one schema over a pool of connections.

    `search_path` is given where the pool is shared; each connection is set to it before it is used. `connections_max`
    is how many connections of the pool this schema may use at a time, so that a slow one leaves some to the others.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        schema: str,
        search_path: str | None = None,
        connections_max: int | None = None,
    ) -> None:
        self.connections = connections
        self.engine = connections.engine
        self.schema = schema
        self.search_path = search_path
        settings = dict(connections.settings) | ({"search_path": search_path} if search_path else {})
        self.transaction_settings = settings if connections.pooled else {}
        """What each transaction sets for itself, behind a pooler; empty where the connection was opened with it."""
        self.begin_statement = pooler.begin_statement(self.transaction_settings)
        self._turns = asyncio.Semaphore(connections_max) if connections_max else None

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A READ COMMITTED transaction: commits when the body ends, rolls back when it raises."""
        return _transaction(self, self.engine)

    def snapshot(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A read-only transaction that sees one moment throughout, for reports and checks."""
        return _transaction(self, self.connections.snapshots)

    def raw_transaction(self) -> AbstractAsyncContextManager[RawConnection]:
        """The driver's connection inside BEGIN and COMMIT. The body must not begin or end transactions itself."""
        return _RawTransaction(self)

    def raw_connection(self) -> AbstractAsyncContextManager[RawConnection]:
        """The driver's connection with no transaction: each statement is its own. Leave none open behind.

        Behind a pooler it is a transaction all the same: the next statement could go to another server connection.
        """
        return _RawTransaction(self) if self.is_pooled else _RawConnection(self)

    @property
    def is_pooled(self) -> bool:
        """Whether a transaction-pooling proxy stands before Postgres, so that nothing outlives a transaction."""
        return self.connections.pooled

    async def ping(self) -> None:
        """Returns when the database answers and takes writes; raises Unavailable otherwise."""
        async with self.raw_connection() as connection:
            if await connection.fetchval("SELECT pg_is_in_recovery()"):
                raise Unavailable(dependency="database")

    async def open(self) -> None:
        """Makes the first connection of the pool; later calls do nothing. Raises Unavailable if it cannot be made."""
        try:
            await self.connections.open()
        except _DRIVER_ERRORS as error:
            _raise_refusal(error)

    async def warm(self, connections: int = 2) -> None:
        """Opens connections ahead of the first calls."""
        async with self.raw_connection():
            if connections > 1:
                await self.warm(connections - 1)

    async def take_turn(self) -> None:
        """Wait until this schema uses fewer connections than it may; raises Unavailable after a time."""
        await self.connections.open()
        if self.search_path is not None:
            _wanted_path.set(self.search_path)
        if self._turns is None:
            return
        if not self._turns.locked():
            await self._turns.acquire()
            return
        try:
            async with asyncio.timeout(self.connections.timeout_s):
                await self._turns.acquire()
        except TimeoutError:
            raise Unavailable(dependency="database") from None

    def end_turn(self) -> None:
        if self._turns is not None:
            self._turns.release()

    async def set_path(self, connection: RawConnection, info: dict[object, object]) -> None:
        """Set a connection of a shared pool to this schema, unless its last user has done so."""
        if self.search_path is None or self.is_pooled or info.get(_SEARCH_PATH) == self.search_path:
            return
        info.pop(_SEARCH_PATH, None)
        await connection.execute(set_path_statement(self))
        info[_SEARCH_PATH] = self.search_path

    async def close(self) -> None:
        """Closes the pool. Connections still in use close when they are given back."""
        await self.engine.dispose()


def set_path_statement(database: Database) -> str:
    """Return the statement that sets a connection to a schema of a shared pool."""
    return f"SET search_path = {database.search_path}"


class _IdleConnections(AsyncAdaptedQueue[ConnectionPoolEntry]):
    """The idle connections of a shared pool.

    It gives out the connection that is set to the wanted search path already, and another one only where no more can be
    opened: Postgres plans prepared statements anew after each change of the search path.
    """

    @memoized_property
    def _queue(self) -> "asyncio.Queue[ConnectionPoolEntry]":
        return _PathQueue(self.maxsize)

    def get_nowait(self) -> ConnectionPoolEntry:
        if not any(map(_is_on_wanted_path, cast("_PathQueue", self._queue).entries)):
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


_wanted_path: ContextVar[str | None] = ContextVar("wanted search path", default=None)


def _is_on_wanted_path(entry: ConnectionPoolEntry) -> bool:
    return entry.info.get(_SEARCH_PATH) == _wanted_path.get()


def open_database(
    url: str,
    *,
    schema: str,
    pool_size: int = 8,
    acquire_timeout_ms: int = 1_000,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    idle_in_transaction_timeout_ms: int = 5_000,
    statement_cache_size: int = 100,
    plan_every_time: bool = False,
    plan_by_key: bool = False,
    application_name: str | None = None,
) -> Database:
    """A pool for one schema. Nothing is connected until first use; the options are those of `open_connections`."""
    connections = open_connections(
        url,
        search_path=f'"{schema}"',
        pool_size=pool_size,
        acquire_timeout_ms=acquire_timeout_ms,
        statement_timeout_ms=statement_timeout_ms,
        lock_timeout_ms=lock_timeout_ms,
        idle_in_transaction_timeout_ms=idle_in_transaction_timeout_ms,
        statement_cache_size=statement_cache_size,
        plan_every_time=plan_every_time,
        plan_by_key=plan_by_key,
        application_name=application_name or f"tollhouse-{schema}",
    )
    return Database(connections, schema=schema)


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
    plan_every_time: bool = False,
    plan_by_key: bool = False,
    check: Callable[[], Awaitable[None]] | None = None,
) -> Connections:
    """A pool of connections. Nothing is connected until first use.

    `shared` is for a pool that several `Database` objects use with search paths of their own. `check` is awaited once,
    before the first use of a connection; while it raises, every use does.

    `statement_cache_size=0` is for a transaction-pooling proxy such as PgBouncer, see `libs.common.pooler`. Jobs that
    rightly take longer, such as reports, open a small pool of their own with a longer `statement_timeout_ms`.
    `plan_every_time` keeps Postgres from holding on to a plan made while a table was empty, where every index that
    leads with the tenant looks equally good; it costs a fraction of a millisecond a statement. `plan_by_key` reaches
    the same without that cost where every statement finds its rows by a key: with nothing but nested loops over indexes
    to choose from, the plan made for an empty table is the one a full table needs.
    """
    pooled = statement_cache_size == 0
    name = {"application_name": application_name}
    session_settings = {
        **CLUSTER_SETTINGS,
        "idle_in_transaction_session_timeout": str(idle_in_transaction_timeout_ms),
        "jit": "off",
        "lock_timeout": str(lock_timeout_ms),
        "plan_cache_mode": "force_custom_plan" if plan_every_time else "auto",
        "search_path": search_path,
        "statement_timeout": str(statement_timeout_ms),
        "TimeZone": "UTC",
        **(dict.fromkeys(_OTHER_WAYS, "off") if plan_by_key else {}),
    }
    dsn = plain_url(url)

    async def connect(*_: object, **__: object) -> RawConnection:
        return await asyncpg.connect(
            dsn,
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
        poolclass=_SharedPool if shared else AsyncAdaptedQueuePool,
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


def _replace_if_closed(driver_adapter: object, record: object, proxy: PoolProxiedConnection) -> None:
    """Replaces a pooled connection that the server has closed. The driver knows this without a round trip."""
    connection = getattr(driver_adapter, "driver_connection", None)
    if connection is not None and connection.is_closed():
        raise exc.DisconnectionError("the server closed this connection while it was idle")


def _remember_failure(context: ExceptionContext) -> None:
    if context.connection is not None and not context.connection.invalidated:
        context.connection.info[_STATEMENT_FAILED] = True


@asynccontextmanager
async def _transaction(database: Database, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    try:
        await database.take_turn()
    except _DRIVER_ERRORS as error:
        _raise_refusal(error)
    try:
        async with _connected(database, engine) as connection:
            yield connection
    finally:
        database.end_turn()


@asynccontextmanager
async def _connected(database: Database, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    try:
        connection = await engine.connect()
    except _DRIVER_ERRORS as error:
        _raise_refusal(error)
    try:
        raw = await connection.get_raw_connection()
        await database.set_path(cast("RawConnection", raw.driver_connection), raw.info)
        await connection.begin()
        if database.is_pooled:
            await connection.execute(pooler.SET_LOCAL, {"settings": json.dumps(dict(database.transaction_settings))})
        yield connection
        await _to_the_end(_commit(connection))
    except BaseException as error:
        await _to_the_end(_abandon(connection, error))
        if isinstance(error, Exception):
            _raise_refusal(error)
        raise
    await _to_the_end(connection.close())


async def _commit(connection: AsyncConnection) -> None:
    """Commits, after making sure there is something to commit.

    Postgres answers COMMIT in a failed transaction by rolling back, which the driver takes for success. So a body that
    caught a statement's error and went on is detected here, and no call is acknowledged whose data was rolled back.
    """
    raw = await connection.get_raw_connection()
    if raw.info.pop(_STATEMENT_FAILED, False):
        await connection.execute(text("SELECT 1"))
    await connection.commit()


async def _abandon(connection: AsyncConnection, error: BaseException) -> None:
    """Rolls back, or closes the connection where its state is uncertain."""
    try:
        if _state_is_unknown(error):
            await _discard(connection)
        else:
            await connection.rollback()
    except _DRIVER_ERRORS:
        await _discard(connection)
    finally:
        await connection.close()


async def _discard(connection: AsyncConnection) -> None:
    if connection.invalidated or connection.closed:
        return
    raw = await connection.get_raw_connection()
    if raw.driver_connection is not None:
        raw.driver_connection.terminate()
    await connection.invalidate()


def _state_is_unknown(error: BaseException) -> bool:
    """Whether the error may have cut a statement off, so that the connection cannot be used again."""
    if not isinstance(error, Exception) or isinstance(error, TimeoutError):
        return True
    mapped = refusal_for(error)
    return mapped is not None and mapped.discard


def _raise_refusal(error: Exception) -> NoReturn:
    """Raises what the error means to the caller; any other error is raised unchanged."""
    mapped = refusal_for(error)
    if mapped is not None:
        raise mapped.refusal from error
    raise error


async def _to_the_end(work: Coroutine[object, object, None]) -> None:
    """Runs the work to its end even if the caller is cancelled, and raises the cancellation afterwards."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        # A second cancellation meanwhile changes nothing: the work is bounded by the driver's own time limit.
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            task.exception()  # marks it as seen; the cancellation is what the caller learns of
        raise


class _RawConnection(AbstractAsyncContextManager[RawConnection]):
    """Takes a pooled connection for the length of a block. Written out as a class since it is on the hot path."""

    __slots__ = ("_connection", "_database", "_proxy")

    def __init__(self, database: Database) -> None:
        self._database = database
        self._proxy: PoolProxiedConnection
        self._connection: RawConnection

    async def __aenter__(self) -> RawConnection:
        database = self._database
        try:
            await database.take_turn()
        except _DRIVER_ERRORS as error:
            _raise_refusal(error)
        try:
            self._proxy = await greenlet_spawn(database.engine.sync_engine.pool.connect)
        except BaseException as error:
            database.end_turn()
            if isinstance(error, _DRIVER_ERRORS):
                _raise_refusal(error)
            raise
        connection: RawConnection = self._proxy.driver_connection  # type: ignore[assignment]
        self._connection = connection
        await self._begin()
        return connection

    async def _begin(self) -> None:
        """Prepare the connection for its user."""
        try:
            await self._database.set_path(self._connection, self._proxy.info)
        except BaseException as error:
            self._discard()
            self._database.end_turn()
            if isinstance(error, Exception):
                _raise_refusal(error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and _state_is_unknown(error):
            self._discard()
        else:
            self._proxy.close()
        self._database.end_turn()
        if isinstance(error, Exception):
            _raise_refusal_of_body(error)

    def _discard(self) -> None:
        self._connection.terminate()
        self._proxy.invalidate()
        self._proxy.close()


class _RawTransaction(_RawConnection):
    """The same, inside BEGIN and COMMIT."""

    __slots__ = ()

    async def _begin(self) -> None:
        await super()._begin()
        try:
            await self._connection.execute(self._database.begin_statement)
        except BaseException as error:
            self._discard()
            self._database.end_turn()
            if isinstance(error, Exception):
                _raise_refusal(error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self._commit()
            elif _state_is_unknown(error):
                self._discard()
            else:
                await self._roll_back()
        finally:
            self._database.end_turn()
        if isinstance(error, Exception):
            _raise_refusal_of_body(error)

    async def _commit(self) -> None:
        try:
            await _to_the_end(self._finish("COMMIT"))
        except _DRIVER_ERRORS as error:
            _raise_refusal(error)

    async def _roll_back(self) -> None:
        """Rolls back; an error is ignored, because the connection is then lost and the transaction with it."""
        try:
            await _to_the_end(self._finish("ROLLBACK"))
        except _DRIVER_ERRORS:
            return

    async def _finish(self, command: str) -> None:
        """Ends the transaction and gives the connection back, as one step that a cancellation cannot interrupt."""
        try:
            done = await self._connection.execute(command)
        except BaseException:
            self._discard()
            raise
        self._proxy.close()
        if done != command:
            raise RuntimeError("The transaction had failed before its end, so nothing of it was kept.")


def _raise_refusal_of_body(error: Exception) -> None:
    """As `_raise_refusal`, from within `__aexit__`, where any other error propagates by itself.

    A violated constraint is raised as ConstraintViolation, for the code that knows what it means.
    """
    mapped = refusal_for(error)
    if mapped is not None:
        raise mapped.refusal from error
    violated = violation(error)
    if violated is not None:
        raise violated from error
