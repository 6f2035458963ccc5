"""The `tollhouse` command: its commands, and how errors end it."""

import asyncio
import sys

import grpc
import typer
from rich.console import Console

from libs.cli.commands import audit, key, models, organization, project, service_account, user
from libs.cli.commands.demo import demo
from libs.cli.commands.migrate import migrate
from libs.cli.commands.replay import replay
from libs.cli.commands.serve import serve
from libs.cli.commands.shards import shards
from libs.cli.commands.token import token
from libs.cli.commands.up import up
from libs.cli.commands.verify import verify
from libs.cli.failures import CommandFailed
from libs.cli.terminal.refusals import exit_status_of, refusal_line
from libs.common.database_url import InvalidDatabaseUrl
from libs.common.environment import VariablesError
from libs.common.postgres import PostgresError

app = typer.Typer(
    name="tollhouse",
    help="Identity, metering and billing: every metered call charged exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (up, serve, migrate, shards, token, replay, verify, demo):
    app.command()(command)
for noun in (organization, user, project, service_account, key, models, audit):
    app.add_typer(noun.group)


def main() -> None:
    """Run the command. An error is one line on standard error; the exit status is 1, or 2 for wrong use."""
    try:
        app()
    except CommandFailed as error:
        _end_with(str(error), error.exit_code)
    except PostgresError as error:
        _end_with(str(error), 1)
    except VariablesError as error:
        _end_with(f"{error}.", 2)
    except InvalidDatabaseUrl as error:
        _end_with(f"The database URL {error}.", 2)
    except grpc.aio.AioRpcError as error:
        _end_with(refusal_line(error), exit_status_of(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)


def _end_with(message: str, status: int) -> None:
    Console(stderr=True, highlight=False).print(f"tollhouse: {message}", soft_wrap=True, markup=False)
    sys.exit(status)


if __name__ == "__main__":
    main()
