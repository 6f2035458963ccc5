"""Brings a context's schema up to its newest migration.

Migrations are `services/<context>/migrations/*.py`, written with alembic's `op`; there is no configuration file and no
environment script: this module replaces both. The version is kept inside the schema. One process at a time
migrates a context (an advisory lock), each migration is one transaction, and a migration that does not get a
table's lock within a second gives up, so that waiting queries proceed, and is retried a bounded number of times.

A context with organization shards (see `libs.common.shards`) has a second chain, `migrations/shards/*.py`, which runs
in each shard's schema in turn; every schema keeps its own version. What fails or is interrupted at any shard can be
repeated: shards that are at the newest version already are left as they are.
"""

import asyncio
import functools
import io
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, pool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from libs.common import roles
from libs.common.database_errors import driver_error
from libs.common.database_url import plain_url
from libs.common.session_settings import CLUSTER_SETTINGS
from libs.common.sharding import SERVICES, SHARDS_MAX, shard_migrations_folder, shard_schema

CONTEXTS = ("identity", "billing", "metering")

_LOCK_TIMEOUT = "1s"
_STATEMENT_TIMEOUT = "10min"
_TRIES = 10
_RETRIED = frozenset({"55P03", "40P01", "40001", "XX000", "23505"})
"""Lock timeout, deadlock, and the errors of two sessions that change one catalog row at the same time."""


class MigrationLocked(Exception):
    """Another process has been migrating this schema for longer than we wait."""


class ShardCountFixed(Exception):
    """The database has another number of shards; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What is being migrated: a context, and a shard of how many; no number for the context's own schema."""

    context: str
    shard: int | None
    shard_count: int


def migrations_folder(context: str, services: Path = SERVICES) -> Path:
    """Where a context keeps its migrations."""
    roles.role_of(context)
    return services / context / "migrations"


def has_migrations(context: str) -> bool:
    """Whether the context has any migration at all."""
    return any(migrations_folder(context).glob("[0-9]*.py"))


def has_shards(context: str, services: Path = SERVICES) -> bool:
    """Whether the context has organization shards."""
    roles.role_of(context)
    return shard_migrations_folder(context, services).is_dir()


async def migrate(
    contexts: str | Sequence[str],
    admin_url: str,
    *,
    shards: int | None = None,
    passwords: Mapping[str, str] | None = None,
    lock_wait_s: float = 60,
    services: Path = SERVICES,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> None:
    """Migrates the contexts one after another; where all is done already, nothing changes.

    `admin_url` logs in as the role that is to own the schemas. `passwords`, by context, are set on the contexts' login
    roles; without one a role has no password and can come in only where the server trusts the socket. `shards` is how
    many shards the database gets, or has; None stands for what it has, and for 1 where it is new.

    Raises:
        ShardCountFixed: the database has another number of shards. Nothing was changed.
        MigrationLocked: another process migrates.
    """
    contexts = (contexts,) if isinstance(contexts, str) else contexts
    async with _connect(admin_url) as connection:
        # The contexts have the same number of shards, and none is touched where one of them has another number.
        for context in dict.fromkeys((*contexts, *CONTEXTS)):
            if has_shards(context, services):
                shards = await _fitting_count(connection, context, shards)
    for context in contexts:
        async with _connect(admin_url) as connection, _lock(connection, context, lock_wait_s):
            count = (await _fitting_count(connection, context, shards) or 1) if has_shards(context, services) else 0
            schemas = [shard_schema(context, number) for number in range(count)]
            password = (passwords or {}).get(context)
            await _execute(connection, roles.create_role(context, password))
            on_progress(Progress(context, None, count))
            # The first shard's schema must be there for the context's own migrations, which move tables into it.
            for schema in (context, *schemas[:1]):
                await _execute(connection, roles.create_schema(context, schema))
            await _upgrade(connection, context, _script(migrations_folder(context, services)))
            await _execute(connection, roles.protect_version_table(context, context))
            if count:
                await _execute(connection, [_RECORD_COUNT.format(context=context, count=count)])
            script = _script(shard_migrations_folder(context, services)) if count else None
            for number, schema in enumerate(schemas):
                assert script is not None
                on_progress(Progress(context, number, count))
                await _execute(connection, roles.create_schema(context, schema))
                await _upgrade(connection, schema, script)
                await _execute(connection, roles.protect_version_table(context, schema))


_RECORD_COUNT = """
INSERT INTO {context}.sharding (shard_count)
SELECT {count} WHERE NOT EXISTS (SELECT FROM {context}.sharding)
"""


async def shard_count(url: str) -> int | None:
    """Return how many shards a database has; None where that is not decided yet. Nothing is written.

    A database from before shards has one, unless it has no organization yet.

    Raises:
        ShardCountFixed: the contexts have different numbers of shards.
    """
    count: int | None = None
    async with _connect(url, read_only=True) as connection:
        for context in CONTEXTS:
            if has_shards(context):
                count = await _fitting_count(connection, context, count)
    return count


async def _fitting_count(connection: AsyncConnection, context: str, wanted: int | None) -> int | None:
    """Return the wanted number of shards, or the one that the context has; None where there is neither.

    Raises:
        ShardCountFixed: the context has another number than is wanted, or so many there cannot be.
    """
    if wanted is not None and not 1 <= wanted <= SHARDS_MAX:
        raise ShardCountFixed(f"There can be 1 to {SHARDS_MAX} shards, not {wanted}.")
    count = await _known_count(connection, context)
    await connection.rollback()
    if count is not None and wanted is not None and wanted != count:
        raise ShardCountFixed(
            f"{context} has {count} {'shard' if count == 1 else 'shards'} in this database, not {wanted}. The number is"
            f" fixed when an installation is made: set TOLLHOUSE_SHARDS={count}, or make a new installation with"
            f" {wanted}."
        )
    return wanted if count is None else count


async def _known_count(connection: AsyncConnection, context: str) -> int | None:
    count: int | None = None
    if await connection.scalar(text("SELECT to_regclass(:table)"), {"table": f"{context}.sharding"}) is not None:
        count = await connection.scalar(text(f"SELECT shard_count FROM {context}.sharding"))  # noqa: S608 -- of ours.
    if count is None and await _has_organizations(connection, (context, shard_schema(context, 0))):
        # Made by a version before shards: what it has becomes the first and only one.
        count = 1
    return count


_ORGANIZATION_TABLES = """
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'organization_id' AND a.attnotnull
WHERE n.nspname = ANY(:schemas) AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname !~ '^audit_'
"""


async def _has_organizations(connection: AsyncConnection, schemas: Sequence[str]) -> bool:
    """Whether any table of these schemas has rows of organizations."""
    for table in (await connection.scalars(text(_ORGANIZATION_TABLES), {"schemas": list(schemas)})).all():
        if await connection.scalar(text(f"SELECT EXISTS (SELECT FROM {table})")):  # noqa: S608 -- quoted by Postgres.
            return True
    return False


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """Which migrations of a context a database has, and which are still to come; names without `.py`, oldest first."""

    applied: Sequence[str]
    pending: Sequence[str]
    unknown: Sequence[str]
    """Revisions the database is at that this version of the code does not have: a newer version migrated it."""


async def migration_status(
    contexts: Sequence[str], url: str | None, *, services: Path = SERVICES
) -> dict[str, MigrationStatus]:
    """Read which migrations a database has, by schema. Nothing is written, and no right to write is needed.

    Where `url` is None, or the database has no such schema, nothing is applied. A context that has no shards yet is
    shown with its first one.
    """
    found: dict[str, MigrationStatus] = {}
    async with _connect(url, read_only=True) if url is not None else nullcontext() as connection:
        for context in contexts:
            count = 0
            if has_shards(context, services):
                count = (await _known_count(connection, context) if connection else None) or 1
            schemas = [(context, migrations_folder(context, services))]
            shards_folder = shard_migrations_folder(context, services)
            schemas += [(shard_schema(context, number), shards_folder) for number in range(count)]
            for schema, folder in schemas:
                heads: tuple[str, ...] = ()
                if connection is not None:
                    heads = await connection.run_sync(_heads, schema)
                    await connection.rollback()
                found[schema] = _status(_script(folder), heads)
    return found


def _heads(connection: Connection, schema: str) -> tuple[str, ...]:
    return MigrationContext.configure(connection, opts={"version_table_schema": schema}).get_current_heads()


def _status(script: ScriptDirectory, heads: tuple[str, ...]) -> MigrationStatus:
    revisions = [*script.walk_revisions()][::-1]
    known = {revision.revision for revision in revisions}
    unknown = [head for head in heads if head not in known]
    if unknown:
        # Migrations form one chain, so whoever has a later one has all of these.
        applied = known
    else:
        applied = {revision.revision for revision in script.iterate_revisions(heads, "base")} if heads else set()
    return MigrationStatus(
        applied=[Path(one.path).stem for one in revisions if one.revision in applied],
        pending=[Path(one.path).stem for one in revisions if one.revision not in applied],
        unknown=unknown,
    )


def render_sql(context: str, *, shards: bool = False) -> str:
    """All migrations of a context, or of its shards, as one SQL script, for review and for the migration linter."""
    output = io.StringIO(f"SET lock_timeout = '{_LOCK_TIMEOUT}';\nSET statement_timeout = '{_STATEMENT_TIMEOUT}';\n\n")
    output.seek(0, io.SEEK_END)
    script = _script(shard_migrations_folder(context) if shards else migrations_folder(context))
    with EnvironmentContext(_config(output), script, fn=_steps(script), as_sql=True) as environment:
        environment.configure(
            dialect_name="postgresql",
            output_buffer=output,
            transaction_per_migration=True,
            version_table_schema=shard_schema(context, 0) if shards else context,
        )
        with environment.begin_transaction():
            environment.run_migrations()
    return output.getvalue()


# alembic's `op` is global to the process: two migrations at once would run on each other's connection.
_upgrading: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


def _one_at_a_time() -> asyncio.Lock:
    return _upgrading.setdefault(asyncio.get_running_loop(), asyncio.Lock())


async def _upgrade(connection: AsyncConnection, schema: str, script: ScriptDirectory) -> None:
    """Bring one schema up. It alone is on the search path, for migrations that run in several schemas."""

    def upgrade(sync: Connection) -> None:
        with EnvironmentContext(_config(io.StringIO()), script, fn=_steps(script)) as environment:
            environment.configure(connection=sync, transaction_per_migration=True, version_table_schema=schema)
            with environment.begin_transaction():
                environment.run_migrations()

    await _execute(connection, [f"SET search_path = {schema}, pg_temp"])
    async with _one_at_a_time():
        await _retried(connection, functools.partial(connection.run_sync, upgrade))


def _script(folder: Path) -> ScriptDirectory:
    return ScriptDirectory(str(folder), version_locations=[str(folder)])


def _config(output: io.StringIO) -> Config:
    return Config(stdout=output, output_buffer=output)


def _steps(script: ScriptDirectory) -> Callable[[object, MigrationContext], list[RevisionStep]]:
    def to_head(current: object, _context: MigrationContext) -> list[RevisionStep]:
        return script._upgrade_revs("heads", current)  # type: ignore[arg-type]

    return to_head


@asynccontextmanager
async def _connect(admin_url: str, *, read_only: bool = False) -> AsyncIterator[AsyncConnection]:
    """One connection outside the services' pools, with a long statement timeout and a short lock timeout."""
    settings = {
        **CLUSTER_SETTINGS,
        "application_name": "tollhouse-migrate",
        "lock_timeout": _LOCK_TIMEOUT,
        "statement_timeout": _STATEMENT_TIMEOUT,
        "TimeZone": "UTC",
        **({"default_transaction_read_only": "on"} if read_only else {}),
    }
    engine = create_async_engine(
        "postgresql+asyncpg://",
        connect_args={"dsn": plain_url(admin_url), "server_settings": settings, "timeout": 5},
        poolclass=pool.NullPool,
    )
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


@asynccontextmanager
async def _lock(connection: AsyncConnection, context: str, wait_s: float) -> AsyncIterator[None]:
    """Holds the advisory lock of this schema on this connection. It goes with the connection, even if we are killed."""
    key = {"name": f"tollhouse.migrate.{context}"}
    take = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
    loop = asyncio.get_running_loop()
    give_up = loop.time() + wait_s
    while not await connection.scalar(take, key):
        await connection.rollback()
        if loop.time() >= give_up:
            raise MigrationLocked(f"Another process has been migrating {context} for over {wait_s:g} s.")
        await asyncio.sleep(0.1)
    await connection.commit()
    yield


async def _execute(connection: AsyncConnection, statements: Sequence[str]) -> None:
    async def run() -> None:
        for statement in statements:
            await connection.exec_driver_sql(statement)
        await connection.commit()

    await _retried(connection, run)


async def _retried(connection: AsyncConnection, work: Callable[[], Awaitable[None]]) -> None:
    """Tries again when a lock or a catalog row was taken; what was committed before stays done."""
    for attempt in range(1, _TRIES + 1):
        try:
            await work()
            return
        except DBAPIError as error:
            await connection.rollback()
            state = getattr(driver_error(error), "sqlstate", None)
            if attempt == _TRIES or state not in _RETRIED:
                raise
            await asyncio.sleep(random.uniform(0.05, 0.2) * attempt)
