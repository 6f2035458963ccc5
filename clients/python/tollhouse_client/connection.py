"""The connection to one service: address, TLS and credentials, and single RPCs on it as bytes."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import grpc

from tollhouse_client.credentials import Credentials
from tollhouse_client.errors import (
    ClientClosed,
    InvalidArgument,
    TollhouseError,
    Unauthenticated,
    UsedAfterFork,
    error_of_call,
)

Metadata: TypeAlias = tuple[tuple[str, str], ...]
Rpc: TypeAlias = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]

_RECEIVE_MAX_BYTES: Final = 16 * 1024 * 1024
_SEND_MAX_BYTES: Final = 4 * 1024 * 1024
"""The services take no larger message."""
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _RECEIVE_MAX_BYTES),
    # A peer that is gone without a word is noticed after 70 seconds at most.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A service that has started again is called again after at most half a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """How the services prove who they are, and how this client does.

    Without `ca_file` the system's authorities are trusted. `certificate_file` and `key_file` are for services that ask
    for a certificate. `server_name` is the name in the services' certificates where it is not that of the address.
    """

    ca_file: str | Path | None = None
    certificate_file: str | Path | None = None
    key_file: str | Path | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file belong together: give both or none")


class _Process:
    """What is to be known of this process before gRPC is used in it."""

    has_connected = False
    is_forked_too_late = False
    """Whether it was forked from one that had connected: gRPC would hang or crash here."""


def _note_fork() -> None:
    _Process.is_forked_too_late = _Process.has_connected


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


class Connection:
    """One service. The connection itself is made with the first call, and again whenever it is lost."""

    def __init__(self, context: str, address: str, credentials: Credentials | None, tls: Tls | None) -> None:
        """Use it within one event loop.

        Raises:
            OSError: a file of `tls` cannot be read.
            UsedAfterFork: this process was forked from one in which a client was used.
        """
        require_no_fork()
        self.context = context
        self._audience = f"{context}.tollhouse"
        self._credentials = credentials
        self._bearer = ""
        self._metadata: Metadata = ()
        self.channel = _open_channel(address, tls)
        self._rpcs: dict[str, Rpc] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        """The event loop of the first call."""

    def metadata(self) -> Metadata:
        """Return what is sent with each RPC.

        Raises:
            Unauthenticated: the credentials cannot be sent.
            RuntimeError: the client is used in another event loop than before, or after a fork.
        """
        require_no_fork()
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        require_loop(self._loop)
        if self._credentials is None:
            return ()
        bearer = self._credentials.bearer(self._audience)
        if bearer != self._bearer:
            if not (bearer.isascii() and bearer.isprintable()):
                raise Unauthenticated("The credentials hold what cannot be sent.", reason="CLIENT_CREDENTIALS")
            self._bearer, self._metadata = bearer, (("authorization", f"Bearer {bearer}"),)
        return self._metadata

    async def exchange(self, path: str, request: bytes, timeout_s: float) -> bytes:
        """Make one attempt at an RPC.

        Raises:
            TollhouseError: the call failed.
        """
        if len(request) > _SEND_MAX_BYTES:
            # gRPC would say RESOURCE_EXHAUSTED, as if it could be sent later.
            message = f"The request has {len(request)} bytes; the services take {_SEND_MAX_BYTES}."
            raise InvalidArgument(message, reason="REQUEST_TOO_LARGE")
        rpc = self._rpcs.get(path)
        if rpc is None:
            rpc = self._rpcs[path] = self.channel.unary_unary(path)
        try:
            return await rpc(request, timeout=timeout_s, metadata=self.metadata())
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from None
        except grpc.aio.UsageError:
            raise closed() from None
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise closed() from None  # Closing the channel cancels its calls.

    async def close(self) -> None:
        await self.channel.close()


def require_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Raise RuntimeError outside of this event loop."""
    if asyncio.get_running_loop() is not loop:
        raise RuntimeError("A client works within one event loop: make one in each, such as in each asyncio.run.")


def require_no_fork() -> None:
    """Raise UsedAfterFork where gRPC does not work, since this process was forked from one that had used it."""
    if _Process.is_forked_too_late:
        raise UsedAfterFork(
            "A client was used before this process was forked: fork first, or start processes by spawn."
        )


def is_cancelled() -> bool:
    """Tell whether the present task is being cancelled, as opposed to the call it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def closed() -> TollhouseError:
    return ClientClosed("The client is closed.")


def _open_channel(address: str, tls: Tls | None) -> grpc.aio.Channel:
    _Process.has_connected = True
    if tls is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca_file),
        private_key=_read(tls.key_file),
        certificate_chain=_read(tls.certificate_file),
    )
    options = (*_OPTIONS, ("grpc.ssl_target_name_override", tls.server_name)) if tls.server_name else _OPTIONS
    return grpc.aio.secure_channel(address, credentials, options=options)


def _read(path: str | Path | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
