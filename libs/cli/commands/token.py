"""`tollhouse token`: an operator's token from the data folder's key."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from libs.cli.failures import WrongUse
from libs.cli.installation.data_folder import CONTEXTS, DataFolder
from libs.cli.terminal.connection import DEFAULT_DATA_DIR
from libs.common.clock import SystemClock

_LIFETIME_MAX_S = 30 * 24 * 3600


def token(
    data_dir: Annotated[
        Path, typer.Option(envvar="TOLLHOUSE_DATA_DIR", help="Where `tollhouse up` keeps its keys.")
    ] = DEFAULT_DATA_DIR,
    audience: Annotated[
        list[str] | None, typer.Option(help="A context the token is good for; may be repeated. All, if left out.")
    ] = None,
    lifetime: Annotated[
        int, typer.Option(min=1, max=_LIFETIME_MAX_S, help="How long it is good for, in seconds.")
    ] = 900,
) -> None:
    """Print a token with which an operator may call the services."""
    contexts = [name.removesuffix(".tollhouse") for name in audience or CONTEXTS]
    unknown = [name for name in contexts if name not in CONTEXTS]
    if unknown:
        raise WrongUse(f"There is no audience {unknown[0]!r}; there are {', '.join(CONTEXTS)}.")
    audiences = [f"{name}.tollhouse" for name in contexts]
    minted = DataFolder.existing(data_dir).operator_token(timedelta(seconds=lifetime), SystemClock(), audiences)
    typer.echo(minted)
