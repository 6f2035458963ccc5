"""`tollhouse token`: an operator's token, signed with the key in the data folder."""

import json
from datetime import timedelta
from typing import Annotated

import typer

from libs.cli.failures import WrongUse
from libs.cli.installation.data_folder import CONTEXTS, DataFolder
from libs.cli.terminal.options import DataDirOption, JsonOption, data_dir_of
from libs.common.clock import SystemClock

_LIFETIME_MAX_S = 30 * 24 * 3600


def token(
    data_dir: DataDirOption = None,
    audience: Annotated[
        list[str] | None, typer.Option(help="A service the token is valid for; may be repeated. All, if left out.")
    ] = None,
    lifetime: Annotated[int, typer.Option(min=1, max=_LIFETIME_MAX_S, help="Its lifetime in seconds.")] = 900,
    as_json: JsonOption = False,
) -> None:
    """Print a token with which an operator can call the services."""
    contexts = [name.removesuffix(".tollhouse") for name in audience or CONTEXTS]
    unknown = [name for name in contexts if name not in CONTEXTS]
    if unknown:
        raise WrongUse(f"There is no audience {unknown[0]!r}; choose from {', '.join(CONTEXTS)}.")
    audiences = [f"{name}.tollhouse" for name in contexts]
    clock = SystemClock()
    expire_time = clock.now() + timedelta(seconds=lifetime)
    minted = DataFolder.existing(data_dir_of(data_dir)).operator_token(timedelta(seconds=lifetime), clock, audiences)
    if as_json:
        typer.echo(json.dumps({"token": minted, "audiences": audiences, "expire_time": expire_time.isoformat()}))
    else:
        typer.echo(minted)
