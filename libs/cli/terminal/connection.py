"""Reaching services that run already: where they are, and the token to call them with."""

import json
import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import grpc
import typer

from libs.cli.failures import WrongUse
from libs.cli.installation.data_folder import CONTEXTS
from libs.cli.installation.tls import OPERATOR, TLS_VARIABLE, TlsFolder
from libs.common.authentication import TokenSource
from libs.common.channel import ClientTls, open_channel

READY_FILE_VARIABLE: Final = "TOLLHOUSE_READY_FILE"
DEFAULT_DATA_DIR: Final = Path(".tollhouse")
_LONGEST_CALL_S: Final = 30.0
# Where a command that does not need a service believes it to be: nobody answers there, and nobody is asked.
_NOWHERE: Final = "ipv4:127.0.0.1:1"

ReadyFileOption = Annotated[
    Path | None,
    typer.Option("--ready-file", envvar=READY_FILE_VARIABLE, help="The file `tollhouse up` wrote when it was ready."),
]
IdentityOption = Annotated[str | None, typer.Option("--identity", help="host:port of identity.", metavar="TARGET")]
BillingOption = Annotated[str | None, typer.Option("--billing", help="host:port of billing.", metavar="TARGET")]
MeteringOption = Annotated[str | None, typer.Option("--metering", help="host:port of metering.", metavar="TARGET")]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", envvar="TOLLHOUSE_TOKEN", help="The token or API key to call with.", show_envvar=True),
]


class GivenToken(TokenSource):
    """One token, made elsewhere, for every audience."""

    def __init__(self, token: str) -> None:
        self._token = token

    def token_for(self, audience: str) -> str:
        return self._token


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the services are, and as whom they are called."""

    identity: str
    billing: str
    metering: str
    token: str
    tls: ClientTls | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Channels"]:
        """Open one channel to each service for as long as the context lasts."""
        caller = GivenToken(self.token)
        targets = {"identity": self.identity, "billing": self.billing, "metering": self.metering}
        channels = {
            context: open_channel(
                target, caller=caller, audience=f"{context}.tollhouse", longest_call_s=_LONGEST_CALL_S, tls=self.tls
            )
            for context, target in targets.items()
        }
        try:
            yield Channels(**channels)
        finally:
            for channel in channels.values():
                await channel.close()


@dataclass(frozen=True, slots=True)
class Channels:
    """An open channel to each service."""

    identity: grpc.aio.Channel
    billing: grpc.aio.Channel
    metering: grpc.aio.Channel


def find_connection(
    ready_file: Path | None,
    identity: str | None,
    billing: str | None,
    metering: str | None,
    token: str | None,
    *,
    needed: Collection[str] = CONTEXTS,
) -> Connection:
    """Take what was given, and the rest from the ready file, unless all that is needed was given."""
    given = {"identity": identity, "billing": billing, "metering": metering}
    if token and all(given[context] for context in needed):
        tls = _tls(os.environ.get(TLS_VARIABLE))
        return Connection(identity or _NOWHERE, billing or _NOWHERE, metering or _NOWHERE, token, tls)
    file = ready_file or DEFAULT_DATA_DIR / "ready.json"
    try:
        document = json.loads(file.read_bytes())
        endpoints = document["endpoints"]
        return Connection(
            identity or endpoints["identity"],
            billing or endpoints["billing"],
            metering or endpoints["metering"],
            token or document["operator_token"],
            _tls(os.environ.get(TLS_VARIABLE) or document.get("tls_dir")),
        )
    except OSError:
        where = "" if ready_file or os.environ.get(READY_FILE_VARIABLE) else " (the default)"
        raise WrongUse(
            f"The ready file {file}{where} cannot be read. Start `tollhouse up`, name its file with --ready-file, or "
            f"give {', '.join(f'--{context}' for context in needed)} and --token."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise WrongUse(f"{file} is no ready file of `tollhouse up`.") from None


def _tls(folder: str | None) -> ClientTls | None:
    return TlsFolder(Path(folder)).files_of(OPERATOR) if folder else None
