"""The options that several commands take, each defined once."""

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from libs.cli.installation.data_folder import READY_FILE
from libs.cli.installation.environment import SHARDS_VARIABLE
from libs.common.sharding import SHARDS_MAX

DATA_DIR_VARIABLE: Final = "TOLLHOUSE_DATA_DIR"
READY_FILE_VARIABLE: Final = "TOLLHOUSE_READY_FILE"
LIMIT: Final = 100
_DEFAULT_DATA_DIR: Final = Path(".tollhouse")
_INSTALLATION: Final = "Installation"

DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help=f"The installation's folder, with its keys, logs, embedded Postgres and {READY_FILE}. "
        f"Default: ${DATA_DIR_VARIABLE}, else {_DEFAULT_DATA_DIR}.",
        show_default=False,
        rich_help_panel=_INSTALLATION,
    ),
]
ReadyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--ready-file",
        help="The file `tollhouse up` wrote when it was ready: addresses and a token. "
        f"Default: ${READY_FILE_VARIABLE}, else {READY_FILE} in the installation's folder.",
        show_default=False,
        rich_help_panel=_INSTALLATION,
    ),
]
IdentityOption = Annotated[
    str | None,
    typer.Option(
        "--identity",
        help="The address of identity, instead of the ready file's.",
        metavar="HOST:PORT",
        rich_help_panel=_INSTALLATION,
    ),
]
BillingOption = Annotated[
    str | None,
    typer.Option(
        "--billing",
        help="The address of billing, instead of the ready file's.",
        metavar="HOST:PORT",
        rich_help_panel=_INSTALLATION,
    ),
]
MeteringOption = Annotated[
    str | None,
    typer.Option(
        "--metering",
        help="The address of metering, instead of the ready file's.",
        metavar="HOST:PORT",
        rich_help_panel=_INSTALLATION,
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="TOLLHOUSE_TOKEN",
        help="The token or API key to call with, instead of the ready file's.",
        rich_help_panel=_INSTALLATION,
    ),
]
DatabaseUrlOption = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        help="A Postgres 15 to 18 to use instead of the embedded one, with the login that owns the schemas. "
        "Default: $DATABASE_URL, else $DB_HOST and its like.",
        show_default=False,
        rich_help_panel=_INSTALLATION,
    ),
]
ShardsOption = Annotated[
    int | None,
    typer.Option(
        "--shards",
        min=1,
        max=SHARDS_MAX,
        help="How many schemas of billing and of metering the organizations are spread over. It is fixed when an "
        f"installation is made. Default: what the database has; for a new one ${SHARDS_VARIABLE}, else 1.",
        show_default=False,
        rich_help_panel=_INSTALLATION,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="How many to list at most.")]
OrganizationArgument = Annotated[str, typer.Argument(help="The organization's id.", metavar="ORGANIZATION")]
OrganizationOption = Annotated[
    str, typer.Option("--organization", envvar="TOLLHOUSE_ORGANIZATION", help="The organization's id.", metavar="ID")
]
ProjectOption = Annotated[
    str, typer.Option("--project", help="The project whose account is meant; the organization's own without it.")
]
RequestIdOption = Annotated[
    str, typer.Option("--request-id", help="Makes the command safe to repeat.", show_default=False)
]


def data_dir_of(given: Path | None) -> Path:
    """Return the installation's folder: the one given, else the environment's, else `.tollhouse` here."""
    return given or Path(os.environ.get(DATA_DIR_VARIABLE) or _DEFAULT_DATA_DIR)


def ready_file_of(ready_file: Path | None, data_dir: Path | None) -> Path:
    """Return the ready file: the one given, the given folder's, else the environment's, else the default folder's."""
    if ready_file is not None:
        return ready_file
    named = os.environ.get(READY_FILE_VARIABLE)
    return Path(named) if named and data_dir is None else data_dir_of(data_dir) / READY_FILE
