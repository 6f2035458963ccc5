"""Creating, finding, stopping and restarting users."""

from dataclasses import asdict

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import NotFound
from libs.common.ids import new_id
from services.identity.requests import NO_ORGANIZATION, claim_request
from services.identity.revisions import ChangeKind, SubjectType, current_revision, record_change
from services.identity.user import store
from services.identity.user.model import NewUser, User, UserFilter


class Users:
    """The people of the platform."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(self, new: NewUser, *, request_id: str) -> tuple[User, bool]:
        """Create a user, or return the one an earlier call with this request id made.

        Raises:
            UserAlreadyExists: the email or the username is taken.
            RequestIdReused: the request id was sent before with another body.
        """
        user_id, now = new_id(), self._clock.now()
        async with self._database.transaction() as tx:
            earlier_id = await claim_request(
                tx,
                organization_id=NO_ORGANIZATION,
                method="CreateUser",
                request_id=request_id,
                body=asdict(new),
                resource_id=user_id,
                now=now,
            )
            if earlier_id is None:
                await store.insert_user(tx, user_id, new, now)
            user = _existing(await store.find_user(tx, earlier_id or user_id), earlier_id or user_id)
        return user, earlier_id is not None

    async def get(self, user_id: str) -> User:
        async with self._database.transaction() as tx:
            return _existing(await store.find_user(tx, user_id), user_id)

    async def page(self, *, email: str, before: str | None, size: int) -> tuple[list[User], bool]:
        """Return a page, and whether more follow."""
        async with self._database.transaction() as tx:
            users = await store.list_users(tx, UserFilter(email=email), before=before, limit=size + 1)
        return users[:size], len(users) > size

    async def set_active(self, user_id: str, *, active: bool) -> tuple[User, int]:
        """Deactivate or reactivate a user; return them and a revision that holds their state."""
        now = self._clock.now()
        kind = ChangeKind.OWNER_REACTIVATED if active else ChangeKind.OWNER_DEACTIVATED
        async with self._database.transaction() as tx:
            changed = await store.set_user_active(tx, user_id, active=active, now=now)
            user = _existing(await store.find_user(tx, user_id), user_id)
            if changed:
                revision = await record_change(tx, kind, SubjectType.USER, user_id, organization_id=None, now=now)
            else:
                revision = await current_revision(tx)
        return user, revision


def _existing(user: User | None, user_id: str) -> User:
    if user is None:
        raise NotFound(resource_type="user", resource_name=user_id)
    return user
