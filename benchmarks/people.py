"""Users with passwords, created through the RPCs, and their sign-ins."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from benchmarks.load import Exchange, LoadError, Step
from libs.common.ids import new_id
from tollhouse.identity.v1 import session_pb2, user_pb2, user_pb2_grpc

_PASSWORD = "a bench for sitting on, not for sale"  # noqa: S105 -- of users who exist for one run.
_WITHIN_S = 30.0


def make_people(target: str, token: str, count: int) -> tuple[str, ...]:
    """Creates `count` users with a password each; returns their logins."""
    return asyncio.run(_make_people(target, (("authorization", f"Bearer {token}"),), count))


async def _make_people(target: str, metadata: tuple[tuple[str, str], ...], count: int) -> tuple[str, ...]:
    emails = tuple(f"{new_id()}@example.org" for _ in range(count))
    async with grpc.aio.insecure_channel(target) as channel:
        users: user_pb2_grpc.UserServiceStub = user_pb2_grpc.UserServiceStub(channel)
        for email in emails:
            created = await users.CreateUser(
                user_pb2.CreateUserRequest(email=email), metadata=metadata, timeout=_WITHIN_S
            )
            request = user_pb2.SetPasswordRequest(user_id=created.user.user_id, new_password=_PASSWORD)
            await users.SetPassword(request, metadata=metadata, timeout=_WITHIN_S)
    return emails


@dataclass(frozen=True, slots=True)
class SignIns:
    """Sign-ins with the right password, by each user in turn."""

    emails: tuple[str, ...]

    def steps(self) -> tuple[Step, ...]:
        path = "/tollhouse.identity.v1.SessionService/SignInWithPassword"
        return (Step(path, session_pb2.SignInWithPasswordResponse),)

    def requests(self, first: int, count: int) -> list[Exchange]:
        return [
            (session_pb2.SignInWithPasswordRequest(login=self.emails[number % len(self.emails)], password=_PASSWORD),)
            for number in range(first, first + count)
        ]

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        for (reply,) in replies:
            if not isinstance(reply, session_pb2.SignInWithPasswordResponse) or not reply.tokens.access_token:
                raise LoadError(f"nobody was signed in: {reply}")
