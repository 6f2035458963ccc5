"""Creating, finding, updating, deactivating and reactivating users."""

from collections.abc import Mapping
from dataclasses import asdict

from libs.common.audit.recording import Changed, record_event
from libs.common.call import is_operator
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import FieldViolation, InvalidArgument, NotFound, StaleEtag
from libs.common.ids import new_id
from services.identity.attributes import require_operator_for
from services.identity.requests import NO_ORGANIZATION, Field, claim_request
from services.identity.revisions import ChangeKind, SubjectType, current_revision, record_change
from services.identity.revocation import revoke_invitations_of
from services.identity.user import store
from services.identity.user.credential_store import end_sessions
from services.identity.user.domain import NewUser, User, UserChange, UserFilter, existing, subject_of


class Users:
    """Manages users."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(self, new: NewUser, *, request_id: str) -> tuple[User, bool]:
        """Create a user with an organization of their own, or return the one an earlier call with this request id made.

        Raises:
            UserAlreadyExists: the email, the username or the external id is taken.
            RequestIdReused: the request id was sent before with another body.
        """
        user_id, now = new_id(), self._clock.now()
        async with self._database.transaction() as tx:
            earlier_id = await claim_request(
                tx,
                organization_id=NO_ORGANIZATION,
                method="CreateUser",
                request_id=request_id,
                body=_body(new),
                resource_id=user_id,
                now=now,
            )
            if earlier_id is None:
                organization_id = await store.insert_user(tx, user_id, new, now)
                await record_event(
                    tx, now=now, organization_id=organization_id, resource_type="user", resource_id=user_id
                )
            user = existing(await store.find_user(tx, earlier_id or user_id), earlier_id or user_id)
        return user, earlier_id is not None

    async def get(self, user_id: str, *, show_deleted: bool) -> User:
        async with self._database.transaction() as tx:
            return existing(await store.find_user(tx, user_id, show_deleted=show_deleted), user_id)

    async def page(self, kept: UserFilter, *, before: str | None, size: int) -> tuple[list[User], bool]:
        """Return a page, and whether more follow."""
        async with self._database.transaction() as tx:
            users = await store.list_users(tx, kept, before=before, limit=size + 1)
        return users[:size], len(users) > size

    async def update(self, user_id: str, change: UserChange, *, etag: str) -> User:
        """Change a user's fields. Platform role, metadata and external id can be changed by operators only.

        Raises:
            NotFound: there is no such user, or nothing the user could select under one of the ids.
            PermissionDenied: somebody other than an operator changes what only operators change.
            StaleEtag: the user has changed since the etag was read.
            UserAlreadyExists: the email, the username or the external id is taken.
        """
        for value in (change.platform_role, change.attributes.metadata, change.attributes.external_id):
            require_operator_for(value)
        now = self._clock.now()
        async with self._database.transaction() as tx:
            user = existing(await store.hold_user(tx, user_id), user_id)
            if etag and etag != user.etag:
                raise StaleEtag(resource_type="user")
            values, events = _differences(user, change)
            if not values:
                return user
            await _require_selectable(tx, user, values)
            await store.update_user(tx, user_id, values, now)
            changed = existing(await store.find_user(tx, user_id), user_id)
            await record_event(
                tx,
                now=now,
                organization_id=user.personal_organization_id,
                resource_type="user",
                resource_id=user_id,
                changed=events,
            )
            # None of these fields affects the verification of keys, and callers' rights are not cached for long.
            return changed

    async def set_active(self, user_id: str, *, active: bool) -> tuple[User, int]:
        """Deactivate or reactivate a user; return them and a revision that holds their state.

        A deactivated user is signed out and their open invitations are revoked; reactivation restores neither.

        Raises:
            NotFound: there is no such user.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            changed = await store.set_user_active(tx, user_id, active=active, now=now)
            user = existing(await store.find_user(tx, user_id), user_id)
            if not changed:
                return user, await current_revision(tx)
            invitations: Mapping[str, int] = {}
            if not active:
                await end_sessions(tx, user_id, now, "user_deactivated")
                invitations = await revoke_invitations_of(tx, subject_of(user_id), now)
            for organization_id in sorted({*invitations, user.personal_organization_id}):
                changes = [Changed("active", before=_text(not active), after=_text(active))]
                if organization_id in invitations:
                    changes.append(Changed("revoked_invitations", after=str(invitations[organization_id])))
                await record_event(
                    tx,
                    now=now,
                    organization_id=organization_id,
                    resource_type="user",
                    resource_id=user_id,
                    changed=changes,
                )
            kind = ChangeKind.OWNER_REACTIVATED if active else ChangeKind.OWNER_DEACTIVATED
            revision = await record_change(tx, kind, SubjectType.USER, user_id, organization_id=None, now=now)
        return user, revision


def _body(new: NewUser) -> dict[str, Field]:
    fields: dict[str, Field] = {
        "email": new.email,
        "username": new.username,
        "full_name": new.full_name,
        "picture_url": new.picture_url,
    }
    return fields | new.attributes.as_body()


def _differences(user: User, change: UserChange) -> tuple[dict[str, object], list[Changed]]:
    """Return the changed columns with their values, and the changes for the audit trail.

    Of personal fields the trail records only that they changed, because it outlives the user.
    """
    values: dict[str, object] = {name: value for name, value in change.texts.items() if value != getattr(user, name)}
    before, after = asdict(user.attributes), asdict(user.attributes.changed(change.attributes))
    values |= {name: value for name, value in after.items() if value != before[name]}
    events = [Changed(name) for name in sorted(values)]
    if change.platform_role not in (None, user.platform_role):
        values["platform_role"] = change.platform_role.value
        events.append(Changed("platform_role", before=user.platform_role.value, after=change.platform_role.value))
    selected = _selection(user, change)
    if selected != (user.last_selected_organization_id, user.last_selected_project_id):
        values["last_selected_organization_id"], values["last_selected_project_id"] = (id_ or None for id_ in selected)
        events.append(Changed("last_selected_organization_id"))
    return values, events


def _selection(user: User, change: UserChange) -> tuple[str, str]:
    """Return the organization and project selected after the change; another organization clears the project."""
    before = user.last_selected_organization_id
    organization_id = before if change.selected_organization_id is None else change.selected_organization_id
    project_id = user.last_selected_project_id if organization_id == before else ""
    if change.selected_project_id is not None:
        project_id = change.selected_project_id
    if project_id and not organization_id:
        raise InvalidArgument([FieldViolation("last_selected_project_id", "needs an organization selected with it")])
    return organization_id, project_id


async def _require_selectable(tx: Transaction, user: User, values: Mapping[str, object]) -> None:
    organization_id = str(values.get("last_selected_organization_id") or "")
    if not organization_id:
        return
    project_id = str(values["last_selected_project_id"] or "")
    organization, project = await store.can_select(
        tx, user.user_id, organization_id, project_id=project_id, anywhere=is_operator()
    )
    if not organization:
        raise NotFound(resource_type="organization", resource_name=organization_id)
    if not project:
        raise NotFound(resource_type="project", resource_name=project_id)


def _text(value: bool) -> str:
    return "true" if value else "false"
