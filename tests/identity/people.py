"""Users as callers, each with a session of their own."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import insert

from libs.common.database import Database
from libs.common.ids import new_id
from services.identity.tables import sessions
from tests.identity.support import Identity
from tests.support.callers import Callers, Metadata
from tollhouse.identity.v1 import organization_pb2 as pb


@dataclass(frozen=True, slots=True)
class Person:
    """A user who is signed in."""

    user_id: str
    email: str
    metadata: Metadata


class People:
    """Creates users, signs them in, and makes them members."""

    def __init__(self, identity: Identity, database: Database, callers: Callers) -> None:
        self._identity = identity
        self._database = database
        self._callers = callers

    async def person(self, email: str = "") -> Person:
        """Return a new user with a session."""
        user = await self._identity.create_user(email)
        return await self.sign_in(user.user_id, user.email)

    async def sign_in(self, user_id: str, email: str = "") -> Person:
        """Return a user with one more session."""
        session_id, now = new_id(), datetime.now(UTC)
        async with self._database.transaction() as tx:
            await tx.execute(
                insert(sessions).values(
                    session_id=session_id,
                    user_id=user_id,
                    method="password",
                    provider="",
                    peer_address="",
                    user_agent="",
                    create_time=now,
                    last_refresh_time=now,
                    expire_time=now + timedelta(days=1),
                )
            )
        return Person(user_id, email, self._callers.user(user_id, session_id))

    async def member(self, organization_id: str, role: pb.MemberRole.ValueType) -> Person:
        """Return a new user with a session who belongs to the organization."""
        person = await self.person()
        await self._identity.organizations.AddMember(
            pb.AddMemberRequest(organization_id=organization_id, user_id=person.user_id, role=role),
            metadata=self._identity.metadata,
        )
        return person
