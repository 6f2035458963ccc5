"""The event that credits have expired, written in the batch in which they do."""

from collections.abc import Iterable
from datetime import datetime

from libs.common.amount import format_amount
from libs.common.database import RawConnection
from libs.common.events.outbox import NewEvent, announce
from libs.common.timestamps import rfc3339
from services.billing.ledger.grants import Grant, GrantState


async def announce_expired(connection: RawConnection, changed: Iterable[Grant], now: datetime) -> None:
    """Announce the grants among those that a batch has changed that have expired with something left."""
    events = [_expired(grant) for grant in changed if _has_expired(grant)]
    if events:
        await announce(connection, sorted(events, key=lambda one: (one.organization_id, one.subject)), now)


def _has_expired(grant: Grant) -> bool:
    return grant.state is GrantState.ENDED and grant.void_time is None and grant.expired > 0


def _expired(grant: Grant) -> NewEvent:
    data = {
        "grant_id": grant.grant_id,
        "account_id": grant.account_id,
        "project_id": grant.project_id,
        "currency_code": grant.currency_code,
        "amount": format_amount(grant.amount),
        "expired": format_amount(grant.expired),
        "expire_time": None if grant.expire_time is None else rfc3339(grant.expire_time),
        "source_reference": grant.source_reference,
        "description": grant.description,
    }
    return NewEvent(grant.organization_id, "tollhouse.credit_grant.expired", f"credit_grant/{grant.grant_id}", data)
