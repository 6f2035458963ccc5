"""Says what may be used, and sets and lists the overrides."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from libs.common.audit.recording import Changed, differences, record_event
from libs.common.call import current_actor
from libs.common.clock import Clock
from libs.common.database import RawConnection, see_one_moment
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.ids import NIL
from libs.common.shards import Shards
from services.billing import errors
from services.billing.clients.subjects import Subjects
from services.billing.plan.changes import entitlement_text
from services.billing.plan.domain import Entitlement
from services.billing.subscription import entitlement_store as store
from services.billing.subscription.domain import Agreement, Subscription
from services.billing.subscription.entitlement_domain import OVERRIDES_MAX, Entitled, Override, entitled
from services.billing.subscription.entitlement_position import Position
from services.billing.subscription.entitlement_store import OverrideKey
from services.billing.subscription.offers import Offers
from services.billing.subscription.store import find_live

BEFORE_ALL: Final[OverrideKey] = (NIL, "", "")
"""The key before that of the first override in a list."""


@dataclass(frozen=True, slots=True)
class WantedOverride:
    """What the override of a subject and a code is to be."""

    organization_id: str
    user_id: str | None
    model: str | None
    entitlement_code: str
    entitlement: Entitlement | None
    """None where there is to be none."""
    expire_time: datetime | None
    reason: str


class Entitlements:
    """The entitlements of one organization at a time."""

    def __init__(self, shards: Shards, offers: Offers, subjects: Subjects, clock: Clock) -> None:
        self._shards = shards
        self._subjects = subjects
        self._offers = offers
        self._clock = clock

    async def get(self, organization_id: str, user_id: str | None, model: str | None) -> tuple[Entitled, Position]:
        """Return what an organization, a user in it, or one of them with a model may use, and as of which position.

        The position knows of the organization's shard alone.
        """
        now = self._clock.now()
        async with self._shards.of(organization_id).raw_transaction() as connection:
            await see_one_moment(connection)
            revision = await store.current_revision(connection)
            default = await store.find_default(connection)
            overrides = await store.find_overrides(connection, organization_id, user_id, model, now)
            subscriptions = await _find_subscriptions(connection, organization_id, user_id, model)
        # Versions of plans never change, so it does not matter that they are read later.
        agreements = [Agreement(one, await self._offers.terms(one)) for one in subscriptions]
        by_default = (await self._offers.terms_of(default)).entitlements if default else ()
        revisions: list[int | None] = [None] * len(self._shards)
        revisions[self._shards.number_of(organization_id)] = revision
        position = Position(default.version if default else 0, tuple(revisions))
        return entitled(overrides, agreements, by_default, now), position

    async def set_override(self, wanted: WantedOverride) -> Override | None:
        """Set the override of a subject and a code, or take it back; return it, or None where there is none now.

        Raises:
            InvalidArgument: it would have expired.
            NotFound: the user or the model does not exist, or the user is not of the organization.
            TooManyOverrides: the organization has as many as it can have.
            Unavailable: identity or metering cannot be asked.
        """
        if wanted.entitlement is not None:
            await self._subjects.require(wanted.organization_id, wanted.user_id, wanted.model)
        async with self._shards.of(wanted.organization_id).raw_transaction() as connection:
            await store.lock_overrides(connection, wanted.organization_id)
            now = self._clock.now()
            await store.drop_expired_overrides(connection, wanted.organization_id, now)
            subject = wanted.organization_id, wanted.user_id, wanted.model
            before = await store.find_override(connection, *subject, wanted.entitlement_code)
            after = _override(wanted, now)
            if before == after or (before is not None and after is not None and after.says_the_same(before)):
                return before
            if after is None:
                assert before is not None
                await store.drop_override(connection, before)
            else:
                if before is None and await store.count_overrides(connection, wanted.organization_id) >= OVERRIDES_MAX:
                    raise errors.TooManyOverrides(overrides=OVERRIDES_MAX)
                await store.put_override(connection, after)
            await record_event(
                connection,
                now=now,
                organization_id=wanted.organization_id,
                resource_type="entitlement_override",
                resource_id=_name(wanted),
                changed=_changes(before, after),
            )
            await store.touch_entitlements(connection, [wanted.organization_id])
        return after

    async def overrides(
        self, organization_id: str, user_id: str | None, *, after: OverrideKey, limit: int
    ) -> list[Override]:
        """Return the overrides of an organization that have not expired, or those of one user, after a key."""
        async with self._shards.of(organization_id).raw_connection() as connection:
            return await store.overrides_after(connection, organization_id, user_id, after, self._clock.now(), limit)


async def _find_subscriptions(
    connection: RawConnection, organization_id: str, user_id: str | None, model: str | None
) -> list[Subscription]:
    """Return the live subscriptions of the organization, of the user, and of the user to the model."""
    subjects: list[tuple[str | None, str | None]] = [(None, None)]
    if user_id is not None:
        subjects.append((user_id, None))
        if model is not None:
            subjects.append((user_id, model))
    found = [await find_live(connection, organization_id, *subject) for subject in subjects]
    return [one for one in found if one is not None]


def _override(wanted: WantedOverride, now: datetime) -> Override | None:
    if wanted.entitlement is None:
        return None
    if wanted.expire_time is not None and wanted.expire_time <= now:
        raise InvalidArgument([FieldViolation("expire_time", "must not have passed")])
    return Override(
        organization_id=wanted.organization_id,
        user_id=wanted.user_id,
        model=wanted.model,
        entitlement=wanted.entitlement,
        expire_time=wanted.expire_time,
        reason=wanted.reason,
        actor=current_actor(),
        create_time=now,
    )


def _name(wanted: WantedOverride) -> str:
    """Return what the audit trail calls an override."""
    user = f" user:{wanted.user_id}" if wanted.user_id else ""
    model = f" model:{wanted.model}" if wanted.model else ""
    return f"{wanted.entitlement_code}{user}{model}"


def _changes(before: Override | None, after: Override | None) -> tuple[Changed, ...]:
    """Return how an override changed. Of texts it is only told that they did."""
    changed = differences(_told(before), _told(after))
    old, new = (None if one is None else one.entitlement for one in (before, after))
    if old != new and not any(one.field == "value" for one in changed):
        changed = (*changed, Changed("value"))
    if (None if before is None else before.reason) != (None if after is None else after.reason):
        changed = (*changed, Changed("reason"))
    return changed


def _told(override: Override | None) -> dict[str, str | None]:
    if override is None:
        return {}
    expire_time = override.expire_time.isoformat() if override.expire_time else None
    return {"value": entitlement_text(override.entitlement), "expire_time": expire_time}
