"""`tollhouse migrate [CONTEXT]`: the schemas brought up to their newest migration."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import asyncpg
import typer
from rich.console import Console

from libs.cli.commands.serve import known_context
from libs.cli.failures import CommandFailed
from libs.cli.installation.data_folder import CONTEXTS, DataFolder
from libs.cli.installation.stack import DATABASE, bring_schemas_up_to_date
from libs.cli.terminal.connection import DEFAULT_DATA_DIR
from libs.common import postgres
from libs.common.databases import ensure_database


def migrate(
    context: Annotated[str | None, typer.Argument(help="identity, billing or metering; all three if left out.")] = None,
    data_dir: Annotated[
        Path, typer.Option(envvar="TOLLHOUSE_DATA_DIR", help="Where keys and the embedded Postgres are kept.")
    ] = DEFAULT_DATA_DIR,
    database_url: Annotated[
        str | None, typer.Option(envvar="DATABASE_URL", help="The login that is to own the schemas.")
    ] = None,
    keep_passwords: Annotated[
        bool, typer.Option("--keep-passwords", help="Leave the passwords of the services' roles as they are.")
    ] = False,
) -> None:
    """Bring the schemas up to their newest migration; done again, it changes nothing."""
    contexts = (known_context(context),) if context else CONTEXTS
    folder = DataFolder(data_dir)
    folder.prepare()
    passwords = {} if keep_passwords else folder.passwords()
    asyncio.run(_migrate(contexts, folder, database_url or None, passwords))
    Console(stderr=True).print(f"Migrated: {', '.join(contexts)}.")


async def _migrate(
    contexts: tuple[str, ...], folder: DataFolder, database_url: str | None, passwords: Mapping[str, str]
) -> None:
    server = None if database_url else await asyncio.to_thread(postgres.start, folder.postgres)
    try:
        url = database_url or await ensure_database(server.admin_url if server else "", DATABASE)
        await bring_schemas_up_to_date(contexts, url, passwords)
    except (OSError, asyncpg.PostgresError) as error:
        raise CommandFailed(f"The migration failed: {str(error).splitlines()[0]}") from None
    finally:
        if server is not None and server.started:
            await asyncio.to_thread(server.stop)
