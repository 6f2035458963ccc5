"""Keys verified in memory, as fresh as the service's own answers.

The cache follows `WatchApiKeys`, with an API key of one organization as with one of all. An answer is used while no
change names its key, user, service account, project or organization, and while the last message of the stream is less
than five seconds old: one comes every second. When the stream is lost or refused, each verification asks identity from
then on, and fails where identity cannot be reached. An answer that is older than a change already seen is used once and
not kept.

Only answers that a key is good are kept, under the SHA-256 digest of the secret. No secret is kept or logged.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from types import MappingProxyType, TracebackType
from typing import Final, Protocol, Self, TypeAlias

import grpc
from google.protobuf import timestamp_pb2

from tollhouse.identity.v1 import api_key_pb2, api_key_pb2_grpc
from tollhouse.metering.v1 import admission_pb2
from tollhouse_client.connection import closed, is_cancelled
from tollhouse_client.errors import ClientClosed, TollhouseError, named
from tollhouse_client.routes import VERIFY_API_KEY, malformed

STALE_MAX_S: Final = 5.0
KEYS_MAX: Final = 100_000
_CHANGES_AT_ONCE: Final = 500
"""A message with so many changes is followed by more, and does not say that all are known until now."""
_SECRET_MAX: Final = 512
_ASK_WITHIN_S: Final = 5.0
_OPEN_AGAIN_AFTER_S: Final = 0.1
_OPEN_AGAIN_AFTER_MAX_S: Final = 5.0
_REFUSED_AGAIN_AFTER_MAX_S: Final = 60.0
_REFUSED: Final = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
)
"""What a stream ends with that this client may not open: somebody has to change that, so it is asked for rarely."""
_MAPPED_BITS: Final = 96

_Network: TypeAlias = IPv4Network | IPv6Network
_log: Final = logging.getLogger("tollhouse_client")


@dataclass(frozen=True, slots=True)
class VerifiedKey:
    """Who acts with a key. Ids that do not apply are empty."""

    organization_id: str
    project_id: str
    user_id: str
    service_account_id: str
    api_key_id: str
    subscription_id: str
    scopes: tuple[str, ...]
    is_test: bool
    """Whether it is a key of the test environment, whose calls are not charged."""
    external_id: str
    metadata: Mapping[str, str]

    def principal(self) -> admission_pb2.Principal:
        """Return it for `meter.authorize(principal=…)`; give its `subscription_id` there, too."""
        return admission_pb2.Principal(
            organization_id=self.organization_id,
            project_id=self.project_id,
            user_id=self.user_id,
            service_account_id=self.service_account_id,
            api_key_id=self.api_key_id,
        )


@dataclass(frozen=True, slots=True)
class KeyAnswer:
    """Whether a key may be used: `code` is VALID or the reason why not, such as REVOKED or MODEL_NOT_ALLOWED."""

    code: str
    key: VerifiedKey | None = None
    """Who acts; None where the key is not good, or may not be used for this."""
    stale: bool = False
    """Whether it may be out of date, because identity cannot read its state and is configured to answer then."""

    @property
    def is_valid(self) -> bool:
        """Whether the key may be used."""
        return self.code == "VALID"


class _Identity(Protocol):
    """What the cache needs of a client."""

    async def verify_api_key(
        self, request: api_key_pb2.VerifyApiKeyRequest, *, timeout_s: float | None = None
    ) -> api_key_pb2.VerifyApiKeyResponse: ...

    def stub(
        self, stub_class: Callable[[grpc.aio.Channel], api_key_pb2_grpc.ApiKeyServiceStub]
    ) -> api_key_pb2_grpc.ApiKeyServiceStub: ...


class _Kept:
    """A good key, with what decides about each use."""

    __slots__ = ("addresses", "answer", "expire_s", "models", "revision", "scopes")

    def __init__(self, answer: api_key_pb2.VerifyApiKeyResponse) -> None:
        principal = answer.principal
        if not principal.organization_id:
            raise ValueError("A good key is one of an organization.")
        key = VerifiedKey(
            organization_id=principal.organization_id,
            project_id=principal.project_id,
            user_id=principal.user_id,
            service_account_id=principal.service_account_id,
            api_key_id=principal.api_key_id,
            subscription_id=principal.subscription_id,
            scopes=tuple(principal.scopes),
            is_test=answer.environment == api_key_pb2.API_KEY_ENVIRONMENT_TEST,
            external_id=answer.external_id,
            metadata=MappingProxyType(dict(answer.metadata)),
        )
        self.answer = KeyAnswer("VALID", key, answer.stale)
        self.scopes = frozenset(key.scopes)
        self.models = tuple(answer.allowed_models)
        self.addresses = tuple(map(_network, answer.allowed_addresses))
        self.revision = answer.revision
        self.expire_s = _seconds(answer.expire_time) if answer.HasField("expire_time") else None

    def decide(self, model: str, required_scopes: Sequence[str], client_address: str) -> KeyAnswer:
        """Answer for one use of the key."""
        if self.addresses and not _is_within(client_address, self.addresses):
            return KeyAnswer("ADDRESS_NOT_ALLOWED")
        if required_scopes and not self.scopes.issuperset(required_scopes):
            return KeyAnswer("INSUFFICIENT_SCOPE")
        if model and self.models and not any(_covers(pattern, model) for pattern in self.models):
            return KeyAnswer("MODEL_NOT_ALLOWED")
        return self.answer

    def subjects(self) -> Iterable[str]:
        """Return the ids by which a change names the key."""
        key = self.answer.key
        assert key is not None
        ids = (key.api_key_id, key.user_id, key.service_account_id, key.project_id, key.organization_id)
        return filter(None, ids)


_Flight: TypeAlias = tuple[bytes, int, str]


class KeyCache:
    """Verifies keys, from memory where that is certain. Use it as an async context, within the client's.

    While the context lasts a stream from identity is kept open.
    """

    def __init__(self, client: _Identity, *, keys_max: int = KEYS_MAX, stale_max_s: float = STALE_MAX_S) -> None:
        """At most `keys_max` keys are kept; each takes about 2 kB. `stale_max_s` may be made shorter than five seconds.

        Raises:
            ValueError: `keys_max` is below 1, or `stale_max_s` is not above 0 and at most 5.
        """
        if keys_max < 1 or not 0 < stale_max_s <= STALE_MAX_S:
            raise ValueError(f"keys_max must be at least 1, and stale_max_s above 0 and at most {STALE_MAX_S:g}.")
        self._client = client
        self._keys_max = keys_max
        self._stale_max_s = stale_max_s
        self._kept: dict[bytes, _Kept] = {}
        self._by_subject: dict[str, set[bytes]] = {}
        self._asking: dict[_Flight, asyncio.Task[_Kept | KeyAnswer]] = {}
        self._good_until_s = 0.0
        self._clock_is_behind_s = 0.0
        """How far this machine's clock is behind identity's, by which keys expire."""
        self._watched_revision = 0
        self._changed_revision = 0
        self._follower: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._follower = asyncio.create_task(self._follow(), name="key changes")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop following changes; nothing is answered from memory any more. Safe to repeat."""
        self._good_until_s = 0.0
        tasks = [task for task in (self._follower, *self._asking.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def watched_revision(self) -> int:
        """The revision up to which every change is applied to what is kept."""
        return self._watched_revision

    @property
    def size(self) -> int:
        """How many keys are kept."""
        return len(self._kept)

    async def verify(
        self,
        secret: str,
        *,
        model: str = "",
        required_scopes: Sequence[str] = (),
        client_address: str = "",
        min_revision: int = 0,
    ) -> KeyAnswer:
        """Tell whether a key may be used for this model, with these scopes, from this address.

        The answer reflects every change up to `min_revision`, and is at most five seconds old else.

        Raises:
            TollhouseError: identity had to be asked and could not answer. Serve nobody then.
        """
        answer = self.known(
            secret,
            model=model,
            required_scopes=required_scopes,
            client_address=client_address,
            min_revision=min_revision,
        )
        if answer is not None:
            return answer
        flight = (_digest(secret), min_revision, client_address)
        # Shielded: if this caller is cancelled, the others who ask about the key still get the answer.
        try:
            asked = await asyncio.shield(self._ask_once(flight, secret))
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise closed() from None
        return asked.decide(model, required_scopes, client_address) if isinstance(asked, _Kept) else asked

    def known(
        self,
        secret: str,
        *,
        model: str = "",
        required_scopes: Sequence[str] = (),
        client_address: str = "",
        min_revision: int = 0,
    ) -> KeyAnswer | None:
        """Return the answer that is certain without asking; None where identity must be asked."""
        if not 0 < len(secret) <= _SECRET_MAX:
            return _NOT_FOUND
        try:
            digest = _digest(secret)
        except UnicodeEncodeError:
            return _NOT_FOUND
        kept = self._kept.get(digest)
        if kept is None or time.monotonic() >= self._good_until_s:
            return None
        if kept.expire_s is not None and time.time() + self._clock_is_behind_s >= kept.expire_s:
            self._forget(digest)
            return None
        # Every change up to the watched revision is applied, so the answer is as good as one of that revision.
        if min_revision > kept.revision and min_revision > self._watched_revision:
            return None
        return kept.decide(model, required_scopes, client_address)

    def _ask_once(self, flight: _Flight, secret: str) -> "asyncio.Task[_Kept | KeyAnswer]":
        asking = self._asking.get(flight)
        if asking is None:
            asking = asyncio.create_task(self._ask(flight, secret), name="key question")
            self._asking[flight] = asking
            asking.add_done_callback(lambda done: self._note_answered(flight, done))
        return asking

    def _note_answered(self, flight: _Flight, asking: "asyncio.Task[_Kept | KeyAnswer]") -> None:
        if self._asking.get(flight) is asking:
            del self._asking[flight]
        if not asking.cancelled():
            asking.exception()  # Marks it as seen, should every caller have gone.

    async def _ask(self, flight: _Flight, secret: str) -> _Kept | KeyAnswer:
        digest, min_revision, client_address = flight
        request = api_key_pb2.VerifyApiKeyRequest(key=secret, min_revision=min_revision, client_address=client_address)
        answer = await self._client.verify_api_key(request, timeout_s=_ASK_WITHIN_S)
        if answer.code == api_key_pb2.VERIFY_API_KEY_CODE_VALID:
            try:
                kept = _Kept(answer)
            except ValueError:
                raise malformed(VERIFY_API_KEY.path) from None
            if not answer.stale and answer.revision >= self._changed_revision:
                self._keep(digest, kept)
            return kept
        code = named(api_key_pb2.VerifyApiKeyCode, answer.code, "VERIFY_API_KEY_CODE_")
        if code != "ADDRESS_NOT_ALLOWED":
            self._forget(digest)
        return KeyAnswer(code, None, answer.stale)

    def _keep(self, digest: bytes, kept: _Kept) -> None:
        self._forget(digest)
        if len(self._kept) >= self._keys_max:
            self._forget(next(iter(self._kept)))
        self._kept[digest] = kept
        for subject in kept.subjects():
            self._by_subject.setdefault(subject, set()).add(digest)

    def _forget(self, digest: bytes) -> None:
        kept = self._kept.pop(digest, None)
        if kept is None:
            return
        for subject in kept.subjects():
            digests = self._by_subject.get(subject)
            if digests is not None:
                digests.discard(digest)
                if not digests:
                    del self._by_subject[subject]

    async def _follow(self) -> None:
        """Follow the stream until the client is closed, and open the next one when it ends, breaks or falls silent."""
        stub = self._client.stub(api_key_pb2_grpc.ApiKeyServiceStub)
        delay_s = _OPEN_AGAIN_AFTER_S
        told = ""
        while True:
            request = api_key_pb2.WatchApiKeysRequest(after_revision=self._watched_revision)
            delay_max_s = _OPEN_AGAIN_AFTER_MAX_S
            try:
                async for message in _lively(aiter(stub.WatchApiKeys(request))):
                    self.take_in(message)
                    delay_s, told = _OPEN_AGAIN_AFTER_S, ""
            except ClientClosed:
                return
            except (TollhouseError, TimeoutError) as error:
                if isinstance(error, TollhouseError) and error.code in _REFUSED:
                    delay_max_s = _REFUSED_AGAIN_AFTER_MAX_S
                told = _tell_broken(error, told)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, delay_max_s)

    def take_in(self, message: api_key_pb2.WatchApiKeysResponse) -> None:
        """Apply a message of the stream."""
        if message.resync or not self._watched_revision:
            self._kept.clear()
            self._by_subject.clear()
            self._changed_revision = max(self._changed_revision, message.revision if message.resync else 0)
        for change in message.changes:
            self._changed_revision = max(self._changed_revision, change.revision)
            for subject in _subjects_of(change):
                for digest in list(self._by_subject.get(subject, ())):
                    self._forget(digest)
        if message.changes or message.resync:
            # Callers after a change must not share a request that was sent before it.
            self._asking.clear()
        self._watched_revision = max(self._watched_revision, message.revision)
        if message.HasField("send_time"):
            self._clock_is_behind_s = _seconds(message.send_time) - time.time()
        if len(message.changes) < _CHANGES_AT_ONCE:
            self._good_until_s = time.monotonic() + self._stale_max_s


_NOT_FOUND: Final = KeyAnswer("NOT_FOUND")


async def _lively(
    messages: AsyncIterator[api_key_pb2.WatchApiKeysResponse],
) -> AsyncIterator[api_key_pb2.WatchApiKeysResponse]:
    """Yield messages; raise TimeoutError where none has come for as long as answers are good."""
    while True:
        try:
            async with asyncio.timeout(STALE_MAX_S):
                message = await anext(messages)
        except StopAsyncIteration:
            return
        yield message


def _tell_broken(error: TollhouseError | TimeoutError, told: str) -> str:
    """Log why there is no stream, once for each cause in a row. Return what has been logged."""
    cause = error.reason or error.code.name if isinstance(error, TollhouseError) else "it fell silent"
    if cause != told:
        _log.warning("The stream of key changes broke and is opened again; until then each key is asked for: %s", error)
    return cause


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _seconds(time_: timestamp_pb2.Timestamp) -> float:
    return time_.seconds + time_.nanos / 1e9


def _subjects_of(change: api_key_pb2.ApiKeyChange) -> list[str]:
    """Return the ids under which keys are kept that a change may concern."""
    subject = change.WhichOneof("subject")
    if subject is None:
        return [change.organization_id]
    named: str = getattr(change, subject)
    # A user's scopes come from projects too, and the user's keys may belong to none: drop all the organization's.
    return [named, change.organization_id] if subject == "project_id" else [named]


def _covers(pattern: str, model: str) -> bool:
    return model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern


def _network(text: str) -> _Network:
    """Read a range. One of IPv4 addresses inside IPv6 is that of the addresses inside."""
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


def _is_within(text: str, networks: Sequence[_Network]) -> bool:
    try:
        address: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    return any(address in network for network in networks)
