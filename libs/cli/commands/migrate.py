"""`tollhouse migrate [CONTEXT]`: bring the schemas up to their newest migration, or list what is pending."""

import asyncio
import json
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import asyncpg
import typer
from rich.console import Console

from libs.cli.commands.serve import known_context
from libs.cli.failures import CommandFailed, WrongUse
from libs.cli.installation.data_folder import CONTEXTS, DataFolder
from libs.cli.installation.environment import owner_database_url, shards_from_environment
from libs.cli.installation.stack import (
    DATABASE,
    bring_schemas_up_to_date,
    embedded_server,
    read_migration_status,
    read_shard_count,
)
from libs.cli.terminal.migrations import status_lines, tell_progress
from libs.cli.terminal.options import DatabaseUrlOption, DataDirOption, JsonOption, ShardsOption, data_dir_of
from libs.common.citus import ClusterNotReady, Distribution, distribute, require_cluster
from libs.common.database_url import with_database
from libs.common.databases import ensure_database
from libs.common.roles import role_of
from libs.common.sharding import shard_schema

if TYPE_CHECKING:
    from libs.common.migrate import MigrationStatus

_T = TypeVar("_T")
_REFERENCE_TABLES: Final = ("billing.plans", "billing.plan_versions", "metering.models", "metering.price_versions")
"""What statements of every shard join, a table after those that it refers to."""
_SHARDED: Final = ("billing", "metering")


def migrate(
    context: Annotated[str | None, typer.Argument(help="identity, billing or metering; all three if left out.")] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Print which migrations are applied and which are pending; change nothing.")
    ] = False,
    keep_passwords: Annotated[
        bool, typer.Option("--keep-passwords", help="Leave the passwords of the services' roles as they are.")
    ] = False,
    distributes: Annotated[
        bool,
        typer.Option(
            "--distribute",
            help="Afterwards, spread the shards over the machines of a Citus cluster. Repeating it does what is left.",
        ),
    ] = False,
    shards: ShardsOption = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    database_url: DatabaseUrlOption = None,
) -> None:
    """Bring the schemas up to their newest migration. Repeating it changes nothing."""
    contexts = (known_context(context),) if context else CONTEXTS
    folder = DataFolder(data_dir_of(data_dir))
    url = owner_database_url(database_url)
    if status:
        _print_status(contexts, asyncio.run(_read_status(contexts, folder, url)), as_json=as_json)
        return
    if distributes and (context or url is None):
        raise WrongUse("--distribute needs all contexts and a database that --database-url or DATABASE_URL names.")
    count = shards or shards_from_environment()
    if distributes and url is not None:
        asyncio.run(_to_cluster(require_cluster(url)))
    folder.prepare()
    passwords = {} if keep_passwords else folder.passwords()
    found = asyncio.run(_migrate(contexts, folder, url, passwords, count))
    distribution = None
    if distributes and url is not None and found is not None:
        distribution = asyncio.run(_to_cluster(_distribute(url, found)))
    _print_done(contexts, found, distribution, as_json=as_json)


async def _migrate(
    contexts: tuple[str, ...],
    folder: DataFolder,
    database_url: str | None,
    passwords: Mapping[str, str],
    shards: int | None,
) -> int | None:
    """Migrate, and return how many shards the database has; None where it has no context yet that has any."""
    async with embedded_server(folder, needed=database_url is None) as admin_url:
        try:
            url = database_url or await ensure_database(admin_url, DATABASE)
            await bring_schemas_up_to_date(contexts, url, passwords, shards=shards, on_progress=tell_progress)
            return await read_shard_count(url)
        except (OSError, asyncpg.PostgresError) as error:
            raise CommandFailed(f"The migration failed: {str(error).splitlines()[0]}") from None


async def _distribute(url: str, shards: int) -> Distribution:
    schemas = [shard_schema(context, number) for context in _SHARDED for number in range(shards)]
    roles = [role_of(context) for context in _SHARDED]
    return await distribute(url, schemas, _REFERENCE_TABLES, roles, note=lambda step: typer.echo(step, err=True))


async def _to_cluster(work: Coroutine[None, None, _T]) -> _T:
    """Await what is done on the cluster; raises CommandFailed with one line where it fails."""
    try:
        return await work
    except ClusterNotReady as error:
        raise CommandFailed(str(error)) from None
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandFailed(f"The cluster cannot be set up: {str(error).splitlines()[0]}") from None


def _print_done(
    contexts: Sequence[str], shards: int | None, distribution: Distribution | None, *, as_json: bool
) -> None:
    if as_json:
        document: dict[str, object] = {"migrated": list(contexts), "shards": shards}
        if distribution is not None:
            document["distributed"] = [*distribution.reference_tables, *distribution.schemas]
        typer.echo(json.dumps(document))
        return
    console = Console(stderr=True, highlight=False)
    console.print(f"Migrated: {', '.join(contexts)}." + (f" Shards: {shards}." if shards else ""))
    if distribution is not None:
        tables, schemas = len(distribution.reference_tables), len(distribution.schemas)
        console.print(f"Distributed now: {tables} reference tables and {schemas} schemas of shards.")


async def _read_status(
    contexts: Sequence[str], folder: DataFolder, database_url: str | None
) -> "dict[str, MigrationStatus]":
    # Without a cluster nothing is applied. It is not created only to report that.
    if database_url is None and not (folder.postgres / "cluster").exists():
        return await read_migration_status(contexts, None)
    async with embedded_server(folder, needed=database_url is None) as admin_url:
        return await read_migration_status(contexts, database_url or with_database(admin_url, DATABASE))


def _print_status(contexts: Sequence[str], statuses: "Mapping[str, MigrationStatus]", *, as_json: bool) -> None:
    if as_json:
        document = {
            context: {"applied": list(one.applied), "pending": list(one.pending), "unknown": list(one.unknown)}
            for context, one in statuses.items()
        }
        typer.echo(json.dumps(document, indent=2))
        return
    for line in status_lines(contexts, statuses):
        typer.echo(line)
    if any(one.unknown for one in statuses.values()):
        typer.echo("Unknown migrations come from a newer version of Tollhouse.", err=True)
