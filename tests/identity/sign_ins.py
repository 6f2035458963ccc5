"""An identity service for tests of sign-ins and sessions: its clock, its callers, and common requests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from libs.common.database import Database
from libs.common.ids import new_id
from services.identity.__main__ import build
from tests.identity.support import PEPPERS, identity_settings
from tests.support.callers import Callers, Metadata, bearer
from tests.support.clock import FixedClock
from tollhouse.identity.v1 import organization_pb2_grpc, session_pb2_grpc, user_pb2, user_pb2_grpc
from tollhouse.identity.v1 import session_pb2 as pb

PASSWORD = "violet-harbour-93-lantern"
WRONG_PASSWORD = "copper-meadow-17-compass"
# The lowest cost of argon2id that the settings allow, because these tests hash hundreds of times.
CHEAP = {"password_hash_memory_kib": 19 * 1024}


class SignIns:
    """Stubs to one server on which users can sign in."""

    def __init__(self, channel: grpc.aio.Channel, callers: Callers, clock: FixedClock) -> None:
        self.callers = callers
        self.clock = clock
        self.sessions = session_pb2_grpc.SessionServiceStub(channel)
        self.users = user_pb2_grpc.UserServiceStub(channel)
        self.organizations = organization_pb2_grpc.OrganizationServiceStub(channel)

    @property
    def operator(self) -> Metadata:
        return self.callers.operator()

    async def create_user(self, *, username: str = "", password: str = PASSWORD) -> user_pb2.User:
        """Create a user, with a password unless it is empty."""
        new = user_pb2.CreateUserRequest(email=f"{new_id()}@people.test", username=username)
        user = (await self.users.CreateUser(new, metadata=self.operator)).user
        if password:
            request = user_pb2.SetPasswordRequest(user_id=user.user_id, new_password=password)
            await self.users.SetPassword(request, metadata=self.operator)
        return user

    async def sign_in(
        self, login: str, password: str = PASSWORD, *, address: str = ""
    ) -> pb.SignInWithPasswordResponse:
        """Sign in; with an address, as if through a proxy from there."""
        request = pb.SignInWithPasswordRequest(login=login, password=password)
        return await self.sessions.SignInWithPassword(request, metadata=from_address(address), timeout=20)

    async def refresh(self, refresh_token: str, request_id: str = "") -> pb.RefreshSessionResponse:
        request = pb.RefreshSessionRequest(refresh_token=refresh_token, request_id=request_id)
        return await self.sessions.RefreshSession(request, timeout=10)

    async def is_let_in(self, signed_in: pb.SignInWithPasswordResponse | pb.SignInWithIdTokenResponse) -> bool:
        """Return whether the access token of a sign-in is accepted."""
        request = user_pb2.GetUserRequest(user_id=signed_in.session.user_id)
        try:
            await self.users.GetUser(request, metadata=bearer(signed_in.tokens.access_token))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return False
            raise
        return True

    async def listed(self, user_id: str) -> list[str]:
        """Return the ids of a user's sessions."""
        answer = await self.sessions.ListSessions(pb.ListSessionsRequest(user_id=user_id), metadata=self.operator)
        return [session.session_id for session in answer.sessions]


def from_address(address: str) -> Metadata:
    return (("x-forwarded-for", address),) if address else ()


@asynccontextmanager
async def open_sign_ins(url: str, folder: Path, **settings: object) -> AsyncIterator[SignIns]:
    """Run identity with a key for sessions, behind a proxy on this machine."""
    clock = FixedClock()
    callers = Callers(folder, clock)
    key_file = folder / "sessions.key.json"
    callers.session_key.write(key_file)
    told = identity_settings(callers, url, folder, PEPPERS).model_dump() | {
        "session_key_file": key_file,
        "trusted_proxies": ("127.0.0.0/8",),
        **CHEAP,
        **settings,
    }
    service = await build(type(identity_settings(callers, url, folder, PEPPERS)).model_validate(told), clock)
    port = await service.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield SignIns(channel, callers, clock)
    finally:
        await service.stop(grace_s=0)


async def ends_of(database: Database, session_id: str) -> str | None:
    """Return why a session ended, as it is stored."""
    async with database.raw_connection() as connection:
        reason: str | None = await connection.fetchval(
            "SELECT end_reason FROM sessions WHERE session_id = $1", session_id
        )
    return reason


async def events(database: Database) -> list[tuple[str, str, str, str]]:
    """Return the audit trail of sessions and users: action, actor, resource type and id, in order."""
    async with database.raw_connection() as connection:
        rows = await connection.fetch(
            "SELECT action, actor, resource_type, resource_id FROM audit_events ORDER BY event_time, sequence"
        )
    return [(row["action"], row["actor"], row["resource_type"], row["resource_id"]) for row in rows]
