"""Posts a body over HTTP to an address that somebody else chose.

The name is resolved once, every address it has is checked, and the connection goes to one of the addresses that were
checked. So a name cannot lead into a private network, whatever it resolves to a moment later. No redirect is followed.
Of the answer the status counts; the rest is read up to a limit and forgotten.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from threading import Thread
from typing import Any, Final
from urllib.parse import urlsplit

from libs.common.addresses import Address, Network, parse_address
from libs.common.events.domain import Failed, Outcome, Reason, may_reach

_HEAD_MAX: Final = 16_384
ANSWER_MAX: Final = 65_536
"""How much of an answer is read."""
_DRAIN_S: Final = 2.0
_ADDRESSES_MAX: Final = 16
_INTERIM_MAX: Final = 5
_NO_CONTENT: Final = 204
_GONE: Final = 410

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host, as texts."""


async def resolve_by_system(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host, as the system resolves it; raises OSError if it has none.

    It takes a thread of its own. The event loop has a few for the names of databases and providers, and whoever chose
    this host may have a name server that never answers.
    """
    done: Future[Sequence[Any]] = Future()
    Thread(target=_resolve, args=(done, host, port), daemon=True).start()
    return [str(address[0]) for *_, address in await asyncio.wrap_future(done)]


def _resolve(done: Future[Sequence[Any]], host: str, port: int) -> None:
    if done.set_running_or_notify_cancel():
        try:
            done.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            done.set_exception(error)


@dataclass(frozen=True, slots=True)
class Poster:
    """Posts, within limits."""

    allowed: Collection[Network] = ()
    """Networks that may be reached beside the public addresses; only these are reached without TLS."""
    tls: ssl.SSLContext | None = None
    timeout_s: float = 15
    resolve: Resolve = resolve_by_system

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Post a body and return what came of it; never raises but for cancellation."""
        try:
            async with asyncio.timeout(self.timeout_s) as limit:
                return await self._post(url, headers, body, limit)
        except Failed as failed:
            return failed.outcome
        except TimeoutError:
            return Outcome(False, Reason.TIMED_OUT, f"there was no answer within {self.timeout_s:g} seconds")
        except ssl.SSLError as error:
            return Outcome(False, Reason.CERTIFICATE_REFUSED, f"TLS failed: {error.reason or type(error).__name__}")
        except (OSError, EOFError) as error:
            return Outcome(False, Reason.CONNECTION_LOST, f"the connection ended: {type(error).__name__}")

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes, limit: asyncio.Timeout) -> Outcome:
        parts = urlsplit(url)
        host, encrypted = parts.hostname or "", parts.scheme == "https"
        port = parts.port or (443 if encrypted else 80)
        addresses = await self._checked(host, port, encrypted=encrypted)
        reader, writer = await self._connect(addresses, host, port, encrypted=encrypted)
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            sent = {
                "Host": parts.netloc,
                "User-Agent": "tollhouse-events/1",
                "Accept": "*/*",
                "Content-Length": str(len(body)),
                "Connection": "close",
                **headers,
            }
            head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
            writer.write(f"POST {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
            status, answered = await _read_head(reader)
            # It is answered. What is left to read has a limit of its own, and no body follows this status.
            limit.reschedule(None)
            complete = status == _NO_CONTENT or await _is_complete(reader, answered)
            return _outcome(status, answered, complete=complete)
        finally:
            writer.transport.abort()

    async def _checked(self, host: str, port: int, *, encrypted: bool) -> list[str]:
        """Return the addresses of a host, all of which may be reached."""
        try:
            texts = list(dict.fromkeys(await self.resolve(host, port)))[:_ADDRESSES_MAX]
        except (OSError, UnicodeError):
            texts = []
        if not texts:
            raise Failed(Reason.NAME_NOT_RESOLVED, "the host name has no address")
        for text in texts:
            address = parse_address(text)
            # A zone names an interface of this machine.
            if address is None or "%" in text or not may_reach(address, self.allowed):
                raise Failed(Reason.ADDRESS_NOT_ALLOWED, "the host has an address of a private network")
            if not encrypted and not _is_in(address, self.allowed):
                raise Failed(Reason.NOT_ENCRYPTED, "only endpoints in networks that are allowed may be without TLS")
        return texts

    async def _connect(
        self, addresses: Sequence[str], host: str, port: int, *, encrypted: bool
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the first address that takes it. The certificate must be that of the host."""
        context = (self.tls or _system_trust()) if encrypted else None
        share_s = self.timeout_s / (len(addresses) + 1)
        for address in addresses:
            try:
                async with asyncio.timeout(share_s):
                    return await asyncio.open_connection(
                        address, port, limit=_HEAD_MAX, ssl=context, server_hostname=host if encrypted else None
                    )
            except ssl.SSLCertVerificationError as error:
                raise Failed(
                    Reason.CERTIFICATE_REFUSED, f"the certificate is not good: {error.verify_message}"
                ) from None
            except ssl.SSLError as error:
                raise Failed(Reason.CERTIFICATE_REFUSED, f"TLS failed: {error.reason or 'unknown'}") from None
            except (OSError, TimeoutError):
                continue
        raise Failed(Reason.NOT_CONNECTED, "none of the host's addresses takes a connection")


@cache
def _system_trust() -> ssl.SSLContext:
    """Return a context that trusts the system's authorities. Reading them takes long, so it is done once."""
    return ssl.create_default_context()


def _is_in(address: Address, networks: Collection[Network]) -> bool:
    return any(address in network for network in networks)


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Return the status and the headers of the answer, in lower case."""
    for _ in range(_INTERIM_MAX):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise Failed(Reason.BAD_ANSWER, f"the answer's headers are longer than {_HEAD_MAX} bytes") from None
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise Failed(Reason.BAD_ANSWER, "the answer is not HTTP") from None
            raise Failed(Reason.CONNECTION_LOST, "the connection ended before an answer") from None
        first, *lines = head.decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        code = rest[:3]
        if not version.startswith("HTTP/1.") or len(code) != 3 or not (code.isascii() and code.isdigit()):
            raise Failed(Reason.BAD_ANSWER, "the answer is not HTTP")
        if int(code) >= 200:
            pairs = (line.partition(":") for line in lines)
            return int(code), {name.strip().lower(): value.strip() for name, _, value in pairs if name}
    raise Failed(Reason.BAD_ANSWER, "there are only interim answers")


async def _is_complete(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bool:
    """Read the body up to the limit, for a moment at most, and tell whether it is within it."""
    announced = headers.get("content-length", "")
    length = int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 19 else None
    if length is not None and length > ANSWER_MAX:
        return False
    read = 0
    try:
        async with asyncio.timeout(_DRAIN_S):
            while read <= ANSWER_MAX and read != length:
                part = await reader.read(8_192)
                if not part:
                    break
                read += len(part)
    except (TimeoutError, OSError):
        pass
    return read <= ANSWER_MAX


def _outcome(status: int, headers: Mapping[str, str], *, complete: bool) -> Outcome:
    if 200 <= status < 300:
        if complete:
            return Outcome(True, http_status=status)
        return Outcome(True, Reason.ANSWER_TOO_LARGE, f"the answer was read up to {ANSWER_MAX} bytes", status)
    if 300 <= status < 400:
        return Outcome(False, Reason.REDIRECTED, f"the answer is a redirect ({status}), which is not followed", status)
    wait = headers.get("retry-after", "")
    retry_after_s = int(wait) if wait.isascii() and wait.isdigit() and len(wait) < 8 else 0
    return Outcome(False, Reason.HTTP_STATUS, f"the answer has the status {status}", status, retry_after_s)


def is_gone(outcome: Outcome) -> bool:
    """Tell whether the endpoint says that it is not there any more."""
    return outcome.http_status == _GONE
