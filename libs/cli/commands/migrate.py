"""`tollhouse migrate [CONTEXT]`: bring the schemas up to their newest migration, or list what is pending."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import asyncpg
import typer
from rich.console import Console

from libs.cli.commands.serve import known_context
from libs.cli.failures import CommandFailed
from libs.cli.installation.data_folder import CONTEXTS, DataFolder
from libs.cli.installation.environment import owner_database_url
from libs.cli.installation.stack import DATABASE, bring_schemas_up_to_date, read_migration_status
from libs.cli.terminal.options import DatabaseUrlOption, DataDirOption, JsonOption, data_dir_of
from libs.common import postgres
from libs.common.database_url import with_database
from libs.common.databases import ensure_database

if TYPE_CHECKING:
    from libs.common.migrate import MigrationStatus


def migrate(
    context: Annotated[str | None, typer.Argument(help="identity, billing or metering; all three if left out.")] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Print which migrations are applied and which are pending; change nothing.")
    ] = False,
    keep_passwords: Annotated[
        bool, typer.Option("--keep-passwords", help="Leave the passwords of the services' roles as they are.")
    ] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    database_url: DatabaseUrlOption = None,
) -> None:
    """Bring the schemas up to their newest migration. Repeating it changes nothing."""
    contexts = (known_context(context),) if context else CONTEXTS
    folder = DataFolder(data_dir_of(data_dir))
    url = owner_database_url(database_url)
    if status:
        _print_status(asyncio.run(_read_status(contexts, folder, url)), as_json=as_json)
        return
    folder.prepare()
    passwords = {} if keep_passwords else folder.passwords()
    asyncio.run(_migrate(contexts, folder, url, passwords))
    if as_json:
        typer.echo(json.dumps({"migrated": list(contexts)}))
    else:
        Console(stderr=True).print(f"Migrated: {', '.join(contexts)}.")


async def _migrate(
    contexts: tuple[str, ...], folder: DataFolder, database_url: str | None, passwords: Mapping[str, str]
) -> None:
    async with _embedded_server(folder, needed=database_url is None) as admin_url:
        try:
            url = database_url or await ensure_database(admin_url, DATABASE)
            await bring_schemas_up_to_date(contexts, url, passwords)
        except (OSError, asyncpg.PostgresError) as error:
            raise CommandFailed(f"The migration failed: {str(error).splitlines()[0]}") from None


async def _read_status(
    contexts: Sequence[str], folder: DataFolder, database_url: str | None
) -> "dict[str, MigrationStatus]":
    # Without a cluster nothing is applied. It is not created only to report that.
    if database_url is None and not (folder.postgres / "cluster").exists():
        return await read_migration_status(contexts, None)
    async with _embedded_server(folder, needed=database_url is None) as admin_url:
        return await read_migration_status(contexts, database_url or with_database(admin_url, DATABASE))


@asynccontextmanager
async def _embedded_server(folder: DataFolder, *, needed: bool) -> AsyncIterator[str]:
    """Yield the URL of the embedded Postgres. It is started if it is not running, and then stopped again."""
    server = await asyncio.to_thread(postgres.start, folder.postgres) if needed else None
    try:
        yield server.admin_url if server else ""
    finally:
        if server is not None and server.started:
            await asyncio.to_thread(server.stop)


def _print_status(statuses: "Mapping[str, MigrationStatus]", *, as_json: bool) -> None:
    if as_json:
        document = {
            context: {"applied": list(one.applied), "pending": list(one.pending), "unknown": list(one.unknown)}
            for context, one in statuses.items()
        }
        typer.echo(json.dumps(document, indent=2))
        return
    for context, one in statuses.items():
        for state, names in (("applied", one.applied), ("pending", one.pending), ("unknown", one.unknown)):
            for name in names:
                typer.echo(f"{context:<10} {state:<8} {name}")
    if any(one.unknown for one in statuses.values()):
        typer.echo("Unknown migrations come from a newer version of Tollhouse.", err=True)
