"""The `tollhouse` command: its commands, and how errors end it."""

import asyncio
import os
import sys
from collections.abc import Collection
from importlib import import_module
from typing import Final

import grpc
import typer
from rich.console import Console

from libs.cli.failures import CommandFailed
from libs.cli.terminal.output import shown
from libs.cli.terminal.refusals import exit_status_of, refusal_line
from libs.common.database_url import InvalidDatabaseUrl
from libs.common.environment import VariablesError
from libs.common.ports import NoFreePort
from libs.common.postgres import PostgresError

# Each is a function of that name in the module of that name; a group of commands is the module's `group`.
COMMANDS: Final = ("up", "serve", "migrate", "shards", "token", "replay", "verify", "demo")
GROUPS: Final = (
    "organization",
    "user",
    "project",
    "service-account",
    "gateway",
    "key",
    "models",
    "units",
    "usage",
    "conversation",
    "retention",
    "plans",
    "subscription",
    "periods",
    "credits",
    "payment",
    "entitlements",
    "invoice",
    "limit",
    "webhook",
    "audit",
    "events",
)


def make_app(names: Collection[str] = (*COMMANDS, *GROUPS)) -> typer.Typer:
    """Make the program with these commands and groups, and import no others."""
    app = typer.Typer(
        name="tollhouse",
        help="Identity, metering and billing: every metered call charged exactly once.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(lambda: None)  # Without it a program of one command would take no name of a command.
    for name in names:
        module = import_module(f"libs.cli.commands.{name.replace('-', '_')}")
        if name in GROUPS:
            app.add_typer(module.group)
        else:
            app.command()(getattr(module, name))
    return app


def _app_for(arguments: list[str]) -> typer.Typer:
    """The program with the one command that was asked for; with all of them for help, or where there is none such."""
    name = arguments[0] if arguments else ""
    return make_app([name]) if name in (*COMMANDS, *GROUPS) else make_app()


def main() -> None:
    """Run the command. An error is one line on standard error; the exit status is 1, or 2 for wrong use."""
    try:
        _app_for(sys.argv[1:])()
    except CommandFailed as error:
        _end_with(str(error), error.exit_code)
    except (PostgresError, NoFreePort) as error:
        _end_with(str(error), 1)
    except VariablesError as error:
        _end_with(f"{error}.", 2)
    except InvalidDatabaseUrl as error:
        _end_with(f"The database URL {error}.", 2)
    except grpc.aio.AioRpcError as error:
        _end_with(refusal_line(error), exit_status_of(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
    except OSError as error:
        if error.errno is None:
            raise
        _end_with(f"{error.filename or 'A file'}: {os.strerror(error.errno)}.", 1)


def _end_with(message: str, status: int) -> None:
    Console(stderr=True, highlight=False).print(f"tollhouse: {shown(message)}", soft_wrap=True, markup=False)
    sys.exit(status)


if __name__ == "__main__":
    main()
