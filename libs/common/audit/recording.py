"""Writes an audit event in the transaction of the change."""

import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from libs.common.audit import store
from libs.common.audit.chain import Changed as Changed
from libs.common.audit.chain import Event, link
from libs.common.audit.chain import differences as differences
from libs.common.call import current_actor, current_call
from libs.common.ids import new_id
from libs.common.sharding import PLATFORM as PLATFORM

_UPKEEP: Final = "Upkeep"
"""The action of work that belongs to no call."""
_TEXT_MAX: Final = 256
_VALUE_MAX: Final = 1_000
_CHANGES_MAX: Final = 100


async def record_event(
    tx: store.AnyTransaction,
    *,
    now: datetime,
    organization_id: str,
    resource_type: str,
    resource_id: str,
    changed: Sequence[Changed] = (),
    actor: str = "",
) -> None:
    """Add an event to the audit trail of an organization.

    Who made the change, through which RPC and from where is taken from the current call. `actor` is for calls that only
    find out while they run who is calling, such as a sign-in. The organization's trail stays locked until the
    transaction ends, so call this after the statements of the change; for several organizations, in the order of their
    ids.
    """
    call = current_call()
    place = await store.take_place(tx, organization_id, now)
    event = Event(
        organization_id=organization_id,
        sequence=place.sequence,
        event_id=new_id(),
        event_time=place.event_time,
        action=call.rpc.rpartition(".")[2] if call else _UPKEEP,
        actor=_plain(actor) or current_actor(),
        api_key_id=(call.caller.api_key_id or None) if call else None,
        resource_type=resource_type,
        resource_id=_plain(resource_id),
        changes=tuple(map(_plain_change, changed[:_CHANGES_MAX])),
        peer_address=call.peer_address if call else "",
        user_agent=_plain(call.user_agent) if call else "",
        request_id=_plain(call.request_id) if call else "",
    )
    await store.append(tx, link(event, place.previous_hash))


def _plain_change(change: Changed) -> Changed:
    before, after = (None if value is None else _plain(value, _VALUE_MAX) for value in (change.before, change.after))
    return Changed(_plain(change.field), before, after)


def _plain(text: str, length_max: int = _TEXT_MAX) -> str:
    """Return the text without control characters, which terminals and databases misread, and cut to its maximum."""
    return "".join(character for character in text[:length_max] if unicodedata.category(character)[0] != "C")
