"""Who a user or a key is and what it may do: asked of identity, and cached for a few seconds.

Identity answers from its own database; billing and metering ask it over gRPC. Without a directory, a service
accepts operators and services only.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import grpc

from libs.common.access import Caller, CallerKind, PlatformRole, Rights
from libs.common.errors import Unauthenticated, Unavailable
from tollhouse.common.v1 import caller_pb2 as pb
from tollhouse.common.v1 import caller_pb2_grpc as rpc

ANSWER_AGE_MAX_S: Final = 4.0
"""How long an answer is cached. A right that was taken away is lost within 5 s, the way of the question included."""
_UNKNOWN_AGE_MAX_S: Final = 2.0
_ANSWERS_MAX: Final = 10_000
_ASK_WITHIN_S: Final = 1.0
KEY_PREFIXES: Final = ("th_live_", "th_test_")
"""The prefixes that mark a bearer token as the secret of an API key rather than a signed token."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a caller came with: a session that an access token names, or the secret of a key."""

    user_id: str = ""
    session_id: str = ""
    api_key: str = ""
    client_address: str = ""

    def __repr__(self) -> str:
        return f"Credential(user_id={self.user_id!r}, session_id={self.session_id!r})"


@dataclass(frozen=True, slots=True)
class Resolved:
    """A caller, with what it may do in the organization that was asked about."""

    caller: Caller
    rights: Rights


class Directory(Protocol):
    """Looks up users and keys."""

    async def resolve(self, credential: Credential, organization_id: str) -> Resolved:
        """Say whose credential it is, and what it may do in the organization (empty for none).

        Raises:
            Unauthenticated: the credential does not work, for whatever reason.
            Unavailable: identity cannot be reached.
        """


class NoDirectory:
    """Refuses every user and key."""

    async def resolve(self, credential: Credential, organization_id: str) -> Resolved:
        raise Unauthenticated


@dataclass(frozen=True, slots=True)
class _Remembered:
    resolved: Resolved | None
    good_until_s: float


class RemoteDirectory:
    """Asks identity, and caches its answers for at most `ANSWER_AGE_MAX_S`."""

    def __init__(self, identity: grpc.aio.Channel, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._callers: rpc.CallerServiceStub = rpc.CallerServiceStub(identity)
        self._monotonic_s = monotonic_s
        self._remembered: OrderedDict[bytes, _Remembered] = OrderedDict()

    async def resolve(self, credential: Credential, organization_id: str) -> Resolved:
        """See `Directory.resolve`."""
        memory_key = _memory_key(credential, organization_id)
        asked_s = self._monotonic_s()
        remembered = self._remembered.get(memory_key)
        if remembered is None or asked_s >= remembered.good_until_s:
            remembered = _remember(await self._ask(credential, organization_id), asked_s)
            self._remembered[memory_key] = remembered
            self._remembered.move_to_end(memory_key)
            if len(self._remembered) > _ANSWERS_MAX:
                self._remembered.popitem(last=False)
        if remembered.resolved is None:
            raise Unauthenticated
        return remembered.resolved

    async def _ask(self, credential: Credential, organization_id: str) -> Resolved | None:
        request = pb.ResolveCallerRequest(organization_id=organization_id, client_address=credential.client_address)
        if credential.api_key:
            request.api_key = credential.api_key
        else:
            request.session.user_id, request.session.session_id = credential.user_id, credential.session_id
        try:
            answer = await self._callers.ResolveCaller(request, timeout=_ASK_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                return None  # The credential has a form that identity never issues.
            raise Unavailable(dependency="identity") from error
        return _resolved(answer, credential, organization_id) if answer.subject else None


def _memory_key(credential: Credential, organization_id: str) -> bytes:
    """Return a digest of everything that the answer depends on; the secret itself is not kept."""
    parts = (
        credential.user_id,
        credential.session_id,
        credential.api_key,
        credential.client_address if credential.api_key else "",
        organization_id,
    )
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=32).digest()


def _remember(resolved: Resolved | None, asked_s: float) -> _Remembered:
    return _Remembered(resolved, asked_s + (_UNKNOWN_AGE_MAX_S if resolved is None else ANSWER_AGE_MAX_S))


def _resolved(answer: pb.ResolveCallerResponse, credential: Credential, organization_id: str) -> Resolved:
    kind, _, name = answer.subject.partition(":")
    return Resolved(
        Caller(CallerKind(kind), name, session_id=credential.session_id, api_key_id=answer.api_key_id),
        Rights(
            platform_role=PlatformRole(answer.platform_role),
            organization_id=organization_id,
            organization_role=answer.organization_role,
            project_roles=dict(answer.project_roles),
            key_scopes=frozenset(answer.key_scopes) if answer.api_key_id else None,
            key_project_id=answer.key_project_id,
            all_organizations=answer.all_organizations,
            gateway_organization_id=answer.gateway_organization_id,
        ),
    )
