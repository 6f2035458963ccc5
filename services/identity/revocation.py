"""Statements that revoke the keys and invitations of somebody who is deleted, removed or loses rights.

Rows are locked in the order of their ids, so that concurrent revocations of the same rows do not deadlock.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import CTE, ColumnElement, and_, case, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.identity.tables import api_keys, invitations

_OPEN: Final = and_(invitations.c.accept_time.is_(None), invitations.c.revoke_time.is_(None))


async def revoke_keys(tx: AsyncConnection, now: datetime, *which: ColumnElement[bool]) -> int:
    """Revoke the keys that match all conditions, along the index the caller names; return how many."""
    held = (
        select(api_keys.c.organization_id, api_keys.c.api_key_id)
        .where(*which, api_keys.c.revoke_time.is_(None))
        .order_by(api_keys.c.organization_id, api_keys.c.api_key_id)
        .with_for_update(key_share=True)
        .cte("held")
    )
    revoked = await tx.execute(
        update(api_keys)
        .where(api_keys.c.organization_id == held.c.organization_id, api_keys.c.api_key_id == held.c.api_key_id)
        .values(revoke_time=now, update_time=now, version=api_keys.c.version + 1)
    )
    return revoked.rowcount


async def revoke_invitations_of(
    tx: AsyncConnection,
    inviter: str,
    now: datetime,
    *,
    organization_id: str | None = None,
    roles: Collection[str] | None = None,
) -> Mapping[str, int]:
    """Revoke the open invitations of an inviter, optionally only those to one organization and to some roles.

    Return how many there were in each organization. They are found along `invitations_open_by_inviter`.
    """
    which = [invitations.c.inviter == inviter, invitations.c.expire_time > now]
    if organization_id is not None:
        which.append(invitations.c.organization_id == organization_id)
    if roles is not None:
        which.append(invitations.c.role.in_(roles))
    return await _revoke_open(tx, now, *which)


async def revoke_invitations_to(tx: AsyncConnection, organization_id: str, now: datetime) -> None:
    """Revoke all open invitations to an organization, along `invitations_open`."""
    await _revoke_open(tx, now, invitations.c.organization_id == organization_id)


async def erase_from_invitations(
    tx: AsyncConnection, user_id: str, email_folded: str | None, now: datetime
) -> Mapping[str, str]:
    """Erase an address from the invitations its owner accepted, and, if it is given, from those addressed to it.

    Open ones are revoked, because nobody can accept them any more. Return those by their organizations: an address has
    at most one in each. They are found along `invitations_by_accepted_user` and `invitations_by_email`.
    """
    theirs = invitations.c.accepted_user_id == user_id
    held = _held(theirs if email_folded is None else or_(theirs, invitations.c.email_folded == email_folded))
    not_accepted = invitations.c.accept_time.is_(None)
    erased = await tx.execute(
        update(invitations)
        .where(*_is_held(held))
        .values(
            email="",
            email_folded="",
            revoke_time=case((not_accepted, func.coalesce(invitations.c.revoke_time, now)), else_=None),
        )
        .returning(invitations.c.organization_id, invitations.c.invitation_id, held.c.was_open)
    )
    return {row.organization_id: row.invitation_id for row in erased if row.was_open}


async def _revoke_open(tx: AsyncConnection, now: datetime, *which: ColumnElement[bool]) -> Mapping[str, int]:
    revoked = await tx.execute(
        update(invitations)
        .where(*_is_held(_held(_OPEN, *which)))
        .values(revoke_time=now)
        .returning(invitations.c.organization_id)
    )
    return Counter(revoked.scalars())


def _held(*which: ColumnElement[bool]) -> CTE:
    return (
        select(invitations.c.organization_id, invitations.c.invitation_id, _OPEN.label("was_open"))
        .where(*which)
        .order_by(invitations.c.organization_id, invitations.c.invitation_id)
        .with_for_update(key_share=True)
        .cte("held")
    )


def _is_held(held: CTE) -> tuple[ColumnElement[bool], ...]:
    return (
        invitations.c.organization_id == held.c.organization_id,
        invitations.c.invitation_id == held.c.invitation_id,
    )
