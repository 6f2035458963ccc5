"""Verifies API keys with identity, and caches the answers.

A VALID answer is cached for at most five seconds. It is dropped at once when identity's stream of changes names the
key, its owner, project or organization. An answer whose revision is older than a change already seen is used once and
not cached.

While identity cannot be reached, no key is accepted, unless the installation has set `key_stale_max_s`: then an expired
answer may be used for that long. Such answers are counted. They are never used for a key that a change has named.

Concurrent calls with one key share one request to identity. A cached answer that is in use is refreshed in the
background shortly before it expires.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NoReturn

import grpc

from libs.common.addresses import AddressList
from libs.common.channel import follow_stream
from libs.common.clock import Clock
from libs.common.deadline import leave_deadline
from libs.common.errors import Unavailable
from libs.common.staleness import StaleAnswers
from libs.common.status import error_info
from libs.common.timestamps import parse_time
from services.metering.errors import TooManyUnknownKeys
from tollhouse.identity.v1 import api_key_pb2 as pb
from tollhouse.identity.v1 import api_key_pb2_grpc as rpc

_VERIFY_WITHIN_S: Final = 1.0
_SECRET_MAX: Final = 512
_RENEW_IN_LAST_PART: Final = 0.25
"""A call that uses an answer in this last part of its lifetime starts a refresh."""

_ASK_AGAIN_AFTER_S: Final = 0.2
"""For how long after a failure calls that have a stale answer do not ask identity."""

VALID: Final = "VALID"
_ADDRESS_NOT_ALLOWED: Final = "ADDRESS_NOT_ALLOWED"
_WILDCARD: Final = "*"


@dataclass(frozen=True, slots=True)
class KeyPrincipal:
    """On whose behalf a key acts."""

    organization_id: str
    project_id: str | None
    user_id: str | None
    service_account_id: str | None
    api_key_id: str | None
    scopes: tuple[str, ...] = ()
    is_test: bool = False
    """Whether the key is of the test environment."""
    subscription_id: str | None = None
    """The subscription that calls with the key fall under; None where it is bound to none."""


@dataclass(frozen=True, slots=True)
class KeyAnswer:
    """Identity's answer about a key; the code is VALID or the reason why the key may not be used."""

    code: str
    principal: KeyPrincipal | None
    stale: bool = False
    """Whether it may be out of date, because identity or what it reads cannot be reached."""
    organization_id: str = ""
    """The organization of a key whose principal is not told, where it is known."""


@dataclass(frozen=True, slots=True)
class _Kept:
    principal: KeyPrincipal
    allowed_models: tuple[str, ...]
    allowed_addresses: AddressList | None
    revision: int
    renew_from_s: float
    good_until_s: float
    expire_s: float | None
    stale: bool


@dataclass(frozen=True, slots=True)
class _Refused:
    """Why identity refused the key for a call from this address."""

    code: str
    client_address: str
    too_many: TooManyUnknownKeys | None = None
    organization_id: str = ""
    """The key's organization; empty where there is no such key."""


_Flight = tuple[bytes, int, str | None]


class IdentityClient:
    """Verifies keys, with a cache."""

    def __init__(
        self, channel: grpc.aio.Channel, clock: Clock, *, ttl_s: float, answers_max: int, stale_max_s: float = 0
    ) -> None:
        self._keys: rpc.ApiKeyServiceStub = rpc.ApiKeyServiceStub(channel)
        self._clock = clock
        self._ttl_s = ttl_s
        self._answers_max = answers_max
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._by_subject: dict[str, set[bytes]] = {}
        self._asking: dict[_Flight, asyncio.Task[_Kept | _Refused]] = {}
        self._changed_revision = 0
        self._watched_revision = 0
        self._stale_max_s = stale_max_s
        self._ask_again_s = 0.0
        self.stale_answers = StaleAnswers("identity")

    @property
    def watched_revision(self) -> int:
        """The revision up to which every change has been applied to the cache."""
        return self._watched_revision

    def known(
        self,
        secret: str,
        *,
        model: str,
        required_scopes: Sequence[str],
        min_revision: int,
        client_address: str = "",
    ) -> KeyAnswer | None:
        """Return the answer that is certain without asking identity; None where it must be asked."""
        if not 0 < len(secret) <= _SECRET_MAX or "\x00" in secret:
            return KeyAnswer("NOT_FOUND", None)
        digest = hashlib.sha256(secret.encode()).digest()
        kept = self._fresh(digest, min_revision)
        if kept is None:
            return None
        answer = _decide(kept, model, required_scopes, client_address)
        if answer.code == VALID and time.monotonic() >= kept.renew_from_s:
            self._ask_once((digest, min_revision, None), secret, client_address)
        return answer

    async def verify(
        self,
        secret: str,
        *,
        model: str,
        required_scopes: Sequence[str],
        min_revision: int,
        client_address: str = "",
    ) -> KeyAnswer:
        """Return whether the key may be used for the model, with these scopes, from this address.

        Raises:
            TooManyUnknownKeys: the address has presented more unknown keys than identity looks up.
            Unavailable: identity cannot be reached, and no cached answer is fresh enough.
        """
        answer = self.known(
            secret,
            model=model,
            required_scopes=required_scopes,
            min_revision=min_revision,
            client_address=client_address,
        )
        if answer is not None:
            return answer
        digest = hashlib.sha256(secret.encode()).digest()
        asked = await self._ask_or_recall(digest, secret, min_revision, client_address)
        if isinstance(asked, _Kept):
            return _decide(asked, model, required_scopes, client_address)
        if asked.too_many is not None:
            raise asked.too_many
        return KeyAnswer(asked.code, None, organization_id=asked.organization_id)

    async def _ask_or_recall(
        self, digest: bytes, secret: str, min_revision: int, client_address: str
    ) -> _Kept | _Refused:
        """Return identity's answer, or a stale cached one if identity cannot be reached and that is allowed."""
        if self._recall(digest, min_revision) is None or time.monotonic() >= self._ask_again_s:
            try:
                asked = await self._ask_for(digest, secret, min_revision, client_address)
            except Unavailable:
                self._ask_again_s = time.monotonic() + _ASK_AGAIN_AFTER_S
                if self._recall(digest, min_revision) is None:
                    raise
            else:
                self.stale_answers.note_fresh()
                return asked
        kept = self._recall(digest, min_revision)
        if kept is None:
            raise Unavailable(dependency="identity")
        self.stale_answers.note_stale()
        return replace(kept, stale=True)

    async def _ask_for(self, digest: bytes, secret: str, min_revision: int, client_address: str) -> _Kept | _Refused:
        # Shielded: if this caller is cancelled, the others still get the answer.
        asked = await asyncio.shield(self._ask_once((digest, min_revision, None), secret, client_address))
        if isinstance(asked, _Kept) or asked.client_address == client_address:
            return asked
        if asked.code != _ADDRESS_NOT_ALLOWED and asked.too_many is None:
            return asked
        # The shared request was refused because of another caller's address, so ask for this address.
        return await asyncio.shield(self._ask_once((digest, min_revision, client_address), secret, client_address))

    async def watch(self) -> NoReturn:
        """Follow identity's stream of changes until cancelled. While no stream is open, cached answers just expire."""

        def open_stream() -> AsyncIterable[pb.WatchApiKeysResponse]:
            return self._keys.WatchApiKeys(pb.WatchApiKeysRequest(after_revision=self._watched_revision))

        await follow_stream(open_stream, self._take_in, "key changes")

    def _fresh(self, digest: bytes, min_revision: int) -> _Kept | None:
        kept = self._kept.get(digest)
        if kept is None:
            return None
        over = kept.expire_s is not None and self._clock.now().timestamp() >= kept.expire_s
        if over or kept.revision < min_revision:
            self._forget(digest)
            return None
        return kept if time.monotonic() < kept.good_until_s else None

    def _recall(self, digest: bytes, min_revision: int) -> _Kept | None:
        """Return an expired answer that may still be used. Keys that a change has named are no longer cached."""
        kept = None if min_revision or not self._stale_max_s else self._kept.get(digest)
        return kept if kept is not None and time.monotonic() < kept.good_until_s + self._stale_max_s else None

    def _ask_once(self, flight: _Flight, secret: str, client_address: str) -> "asyncio.Task[_Kept | _Refused]":
        """Return the request about the key that is in flight; start one if there is none."""
        asking = self._asking.get(flight)
        if asking is None:
            digest, min_revision, _ = flight
            question = self._ask(digest, secret, min_revision, client_address)
            asking = asyncio.create_task(question, name="key question")
            self._asking[flight] = asking
            asking.add_done_callback(lambda done: self._note_answered(flight, done))
        return asking

    def _note_answered(self, flight: _Flight, asking: "asyncio.Task[_Kept | _Refused]") -> None:
        if self._asking.get(flight) is asking:
            del self._asking[flight]
        if not asking.cancelled():
            asking.exception()  # Marks the exception as retrieved: after a failed refresh the next caller asks again.

    async def _ask(self, digest: bytes, secret: str, min_revision: int, client_address: str) -> _Kept | _Refused:
        leave_deadline()
        asked_s = time.monotonic()
        request = pb.VerifyApiKeyRequest(key=secret, min_revision=min_revision, client_address=client_address)
        try:
            answer = await self._keys.VerifyApiKey(request, timeout=_VERIFY_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            info = error_info(error)
            if info is not None and info.reason == TooManyUnknownKeys.reason:
                too_many = TooManyUnknownKeys(wait_ms=int(info.metadata["wait_ms"]))
                return _Refused("NOT_FOUND", client_address, too_many)
            raise Unavailable(dependency="identity") from error
        if answer.code == pb.VERIFY_API_KEY_CODE_VALID:
            kept = self._read(answer, asked_s)
            if not answer.stale:
                self._keep(digest, kept)
            return kept
        code = pb.VerifyApiKeyCode.Name(answer.code).removeprefix("VERIFY_API_KEY_CODE_")
        if code != _ADDRESS_NOT_ALLOWED:
            self._forget(digest)
        return _Refused(code, client_address, organization_id=answer.refused_organization_id)

    def _read(self, answer: pb.VerifyApiKeyResponse, asked_s: float) -> _Kept:
        principal = answer.principal
        expire_s = None
        if answer.HasField("expire_time"):
            expire_s = parse_time("expire_time", answer.expire_time, []).timestamp()
        return _Kept(
            principal=KeyPrincipal(
                organization_id=principal.organization_id,
                project_id=principal.project_id or None,
                user_id=principal.user_id or None,
                service_account_id=principal.service_account_id or None,
                api_key_id=principal.api_key_id or None,
                scopes=tuple(principal.scopes),
                is_test=answer.environment == pb.API_KEY_ENVIRONMENT_TEST,
                subscription_id=principal.subscription_id or None,
            ),
            allowed_models=tuple(answer.allowed_models),
            allowed_addresses=AddressList(answer.allowed_addresses) if answer.allowed_addresses else None,
            revision=answer.revision,
            renew_from_s=asked_s + self._ttl_s * (1 - _RENEW_IN_LAST_PART),
            good_until_s=asked_s + self._ttl_s,
            expire_s=expire_s,
            stale=answer.stale,
        )

    def _keep(self, digest: bytes, kept: _Kept) -> None:
        if self._overtaken(kept.revision):
            return
        self._forget(digest)
        self._kept[digest] = kept
        for subject in _subjects(kept.principal):
            self._by_subject.setdefault(subject, set()).add(digest)
        if len(self._kept) > self._answers_max:
            self._forget(next(iter(self._kept)))

    def _overtaken(self, revision: int) -> bool:
        """Return whether a change was seen that is newer than an answer of this revision."""
        return revision < self._changed_revision

    def _take_in(self, message: pb.WatchApiKeysResponse) -> None:
        if message.resync or not self._watched_revision:
            self._kept.clear()
            self._by_subject.clear()
        self._watched_revision = max(self._watched_revision, message.revision)
        # Callers after a change must not share a request that was sent before it.
        self._asking.clear()
        for change in message.changes:
            self._changed_revision = max(self._changed_revision, change.revision)
            for changed in _changed(change):
                for digest in list(self._by_subject.get(changed, ())):
                    self._forget(digest)
        if message.resync:
            self._changed_revision = max(self._changed_revision, message.revision)

    def _forget(self, digest: bytes) -> None:
        kept = self._kept.pop(digest, None)
        if kept is None:
            return
        for subject in _subjects(kept.principal):
            digests = self._by_subject.get(subject)
            if digests is not None:
                digests.discard(digest)
                if not digests:
                    del self._by_subject[subject]


def _subjects(principal: KeyPrincipal) -> list[str]:
    """Return the ids by which a change names a key."""
    ids = (
        principal.api_key_id,
        principal.user_id,
        principal.service_account_id,
        principal.project_id,
        principal.organization_id,
    )
    return [id_ for id_ in ids if id_]


def _changed(change: pb.ApiKeyChange) -> list[str]:
    """Return the ids under which keys affected by a change are cached."""
    subject = change.WhichOneof("subject")
    if subject is None:
        return [change.organization_id]
    # A user's scopes come from projects too, and the user's keys may belong to no project: drop all the organization's.
    return [getattr(change, subject), *([change.organization_id] if subject == "project_id" else [])]


def _decide(kept: _Kept, model: str, required_scopes: Sequence[str], client_address: str) -> KeyAnswer:
    code = VALID
    if kept.allowed_addresses is not None and not kept.allowed_addresses.allows(client_address):
        code = _ADDRESS_NOT_ALLOWED
    elif not set(required_scopes) <= set(kept.principal.scopes):
        code = "INSUFFICIENT_SCOPE"
    elif kept.allowed_models and not any(_covers(pattern, model) for pattern in kept.allowed_models):
        code = "MODEL_NOT_ALLOWED"
    return KeyAnswer(code, kept.principal, kept.stale)


def _covers(pattern: str, model: str) -> bool:
    if pattern.endswith(_WILDCARD):
        return model.startswith(pattern[:-1])
    return model == pattern
