"""A service's access to Postgres: two interfaces to a pool of connections, and driver errors turned into refusals.

`transaction()` gives SQLAlchemy Core; `raw_transaction()` gives the driver's own connection from the same pool, for
the measured hot paths. The body runs in the caller's task. If the caller is cancelled, a commit in progress is still
awaited, and a connection whose statement was interrupted is closed rather than returned to the pool. So a cancelled
call never leaves half a transaction, and the next caller never gets a connection in an unknown state.

Several `Database` objects may share a pool, each with a search path of its own (see `libs.common.shards`).
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Final, NoReturn, TypeAlias, cast

import asyncpg
import structlog
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util.concurrency import greenlet_spawn

from libs.common import pooler
from libs.common.connections import (
    SEARCH_PATH,
    STATEMENT_FAILED,
    STATEMENT_TIMEOUT_MS,
    Connections,
    open_connections,
    wanted_path,
)
from libs.common.connections import RawConnection as RawConnection
from libs.common.database_errors import ConstraintViolation as ConstraintViolation
from libs.common.database_errors import LostNode as LostNode
from libs.common.database_errors import driver_error, refusal_for, violation
from libs.common.database_errors import violated_constraint as violated_constraint
from libs.common.errors import Unavailable
from libs.common.session_settings import LOCK_TIMEOUT_MS

_log = structlog.get_logger("database")

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
_NOTICE_EVERY_S: Final = 1.0


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
            wanted_path.set(self.search_path)
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
        if self.search_path is None or self.is_pooled or info.get(SEARCH_PATH) == self.search_path:
            return
        info.pop(SEARCH_PATH, None)
        await connection.execute(set_path_statement(self))
        info[SEARCH_PATH] = self.search_path

    async def close(self) -> None:
        """Closes the pool. Connections still in use end when they are given back."""
        await self.connections.close()


async def see_one_moment(connection: RawConnection) -> None:
    """Let all statements of the driver's transaction that just began read, and see the same moment."""
    await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def set_path_statement(database: Database) -> str:
    """Return the statement that sets a connection to a schema of a shared pool."""
    return f"SET search_path = {database.search_path}"


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
    plan_by_key: bool = False,
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
        plan_by_key=plan_by_key,
        application_name=f"tollhouse-{schema}",
    )
    return Database(connections, schema=schema)


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
    if raw.info.pop(STATEMENT_FAILED, False):
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
        if isinstance(mapped.refusal, Unavailable):
            _NOTICE.log(driver_error(error))
        raise mapped.refusal from error
    raise error


class _Notice:
    """Logs why the database cannot be used, once a second at most: in an outage each call would say the same."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def log(self, cause: BaseException) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + _NOTICE_EVERY_S
            _log.warning("database unavailable", cause=type(cause).__name__, sqlstate=getattr(cause, "sqlstate", None))


_NOTICE: Final = _Notice()


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
        try:
            await self._prepare()
        except BaseException as error:
            self._discard()
            database.end_turn()
            if isinstance(error, Exception):
                _raise_refusal(error)
            raise
        return connection

    async def _prepare(self) -> None:
        """Bring the connection into the state in which its user gets it."""
        await self._database.set_path(self._connection, self._proxy.info)

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

    async def _prepare(self) -> None:
        await super()._prepare()
        await self._connection.execute(self._database.begin_statement)

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
