"""Reaching services that run already: where they are, and the token to call them with."""

import json
import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from libs.cli.failures import WrongUse
from libs.cli.installation.data_folder import CONTEXTS
from libs.cli.installation.tls import OPERATOR, TLS_VARIABLE, TlsFolder
from libs.cli.terminal.options import ready_file_of
from libs.common.authentication import TokenSource
from libs.common.channel import ClientTls, open_channel

_LONGEST_CALL_S: Final = 30.0
# The address of a service that a command does not call, where none was given: nothing listens there.
_UNUSED_TARGET: Final = "ipv4:127.0.0.1:1"


class GivenToken(TokenSource):
    """A token source that returns one given token for every audience."""

    def __init__(self, token: str) -> None:
        self._token = token

    def token_for(self, audience: str) -> str:
        return self._token


@dataclass(frozen=True, slots=True)
class Location:
    """What the options say about where the services are; what is None comes from the ready file."""

    data_dir: Path | None = None
    ready_file: Path | None = None
    identity: str | None = None
    billing: str | None = None
    metering: str | None = None
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Connection:
    """The addresses of the services, and the token to call them with."""

    identity: str
    billing: str
    metering: str
    token: str = field(repr=False)
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
            yield Channels(**channels, credentials=(("authorization", f"Bearer {self.token}"),))
        finally:
            for channel in channels.values():
                await channel.close()


@dataclass(frozen=True, slots=True)
class Channels:
    """An open channel to each service. Calls on them carry the token, except those that send a stream."""

    identity: grpc.aio.Channel
    billing: grpc.aio.Channel
    metering: grpc.aio.Channel
    credentials: tuple[tuple[str, str], ...] = field(repr=False)
    """The metadata that a call that sends a stream must be given."""


def find_connection(location: Location, *, needed: Collection[str] = CONTEXTS) -> Connection:
    """Take what was given, and the rest from the ready file, unless all that is needed was given.

    Raises:
        WrongUse: the ready file is needed, and cannot be read or is not one.
    """
    given = {"identity": location.identity, "billing": location.billing, "metering": location.metering}
    if location.token and all(given[context] for context in needed):
        tls = _tls(os.environ.get(TLS_VARIABLE))
        return Connection(**{name: given[name] or _UNUSED_TARGET for name in CONTEXTS}, token=location.token, tls=tls)
    file = ready_file_of(location.ready_file, location.data_dir)
    try:
        document = json.loads(file.read_bytes())
        endpoints = document["endpoints"]
        return Connection(
            **{name: given[name] or endpoints[name] for name in CONTEXTS},
            token=location.token or document["operator_token"],
            tls=_tls(os.environ.get(TLS_VARIABLE) or document.get("tls_dir")),
        )
    except OSError as error:
        raise WrongUse(
            f"The ready file {file} cannot be read ({error.strerror}). Start `tollhouse up`, name its folder with "
            f"--data-dir or its file with --ready-file, or give {', '.join(f'--{context}' for context in needed)} "
            "and --token."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise WrongUse(f"{file} is not a ready file as `tollhouse up` writes it.") from None


def _tls(folder: str | None) -> ClientTls | None:
    return TlsFolder(Path(folder)).files_of(OPERATOR) if folder else None
