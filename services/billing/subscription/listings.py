"""Reads subscriptions and what happened to them."""

from datetime import datetime
from typing import Final

from libs.common.access import Scope
from libs.common.call import require_scope
from libs.common.clock import Clock
from libs.common.database import RawConnection
from libs.common.errors import NotFound
from libs.common.ids import NIL, is_id
from libs.common.pages import decode_page_token, encode_page_token, foreign_token, id_in_token, page_size, text_in_token
from libs.common.shard_pages import place_in_token, token_after
from libs.common.shards import Shards
from libs.common.timestamps import EPOCH, time_of_text, time_text
from services.billing.subscription import event_store, list_store, store
from services.billing.subscription.domain import Event, Subscription
from services.billing.subscription.list_store import Filter

_SCAN_MIN: Final = 500
"""A filtered page reads at least this many rows."""
_FIRST_DUE: Final = (NIL, time_text(EPOCH), NIL)
_SEQUENCE_DIGITS_MAX: Final = 18


class Listings:
    """The subscriptions of one organization at a time. Another organization's look like missing ones."""

    def __init__(self, shards: Shards, clock: Clock) -> None:
        self._shards = shards
        self._clock = clock

    async def get(self, organization_id: str, subscription_id: str) -> Subscription:
        """Return a subscription. Raises NotFound, and PermissionDenied where it is not the caller's own."""
        async with self._shards.of(organization_id).raw_connection() as connection:
            return await _readable(connection, organization_id, subscription_id)

    async def page(
        self, organization_id: str, wanted: Filter, size: int, page_token: str
    ) -> tuple[list[Subscription], str]:
        """Return a page of subscriptions, and the token of the next one.

        The latest come first; with `expire_before` those that expire first.
        """
        fingerprint = f"subscriptions/{organization_id}/{wanted}"
        size = page_size(size)
        scan = max(size, _SCAN_MIN) if not wanted.is_empty else size
        by_expiry = wanted.expire_before is not None
        async with self._shards.of(organization_id).raw_connection() as connection:
            if wanted.expire_before is not None:
                after = _expiry_in_token(page_token, fingerprint)
                rows = await list_store.expiring_after(connection, organization_id, wanted.expire_before, after, scan)
            else:
                before = id_in_token(page_token, fingerprint)
                rows = await list_store.before(connection, organization_id, wanted, before, scan)
        found = [row for row in rows if wanted.takes(row)]
        page = found[:size]
        last = page[-1] if len(found) > size else rows[-1] if len(rows) == scan else None
        return page, "" if last is None else _token_after(last, fingerprint, by_expiry=by_expiry)

    async def due_page(
        self, due_before: datetime | None, *, set_aside: bool, size: int, page_token: str
    ) -> tuple[list[Subscription], str]:
        """Return a page of what is due, or was set aside, in all organizations, and the token of the next one.

        They come shard by shard, in each by the time. A page ends with its shard.
        """
        due_before = self._clock.now() if due_before is None else due_before
        fingerprint = f"due-subscriptions/{set_aside}"
        size = page_size(size)
        number, key = place_in_token(page_token, fingerprint, _FIRST_DUE, len(self._shards))
        after = _due_of(key)
        async with self._shards[number].raw_connection() as connection:
            page = await list_store.due_after(connection, due_before, after, size, set_aside=set_aside)
        last = _due_key(page[-1], set_aside=set_aside) if len(page) == size else None
        return page, token_after(number, last, fingerprint, _FIRST_DUE, len(self._shards))

    async def events(
        self, organization_id: str, subscription_id: str, size: int, page_token: str
    ) -> tuple[list[Event], str]:
        """Return a page of a subscription's events, and the token of the next one; raises as `get` does."""
        fingerprint = f"subscription-events/{organization_id}/{subscription_id}"
        after = _sequence_in_token(page_token, fingerprint)
        size = page_size(size)
        async with self._shards.of(organization_id).raw_connection() as connection:
            await _readable(connection, organization_id, subscription_id)
            events = await event_store.events_after(connection, organization_id, subscription_id, after, size + 1)
        page = events[:size]
        more = len(events) > size
        return page, encode_page_token(str(page[-1].sequence), fingerprint=fingerprint) if more else ""


def existing(found: Subscription | None, subscription_id: str) -> Subscription:
    """Return a subscription that was looked for; raises NotFound."""
    if found is None:
        raise NotFound(resource_type="subscription", resource_name=subscription_id)
    return found


async def _readable(connection: RawConnection, organization_id: str, subscription_id: str) -> Subscription:
    """Return a subscription that the caller may see."""
    found = existing(await store.find(connection, organization_id, subscription_id), subscription_id)
    require_scope(Scope.SCOPE_SUBSCRIPTIONS_READ, user_id=found.user_id or "")
    return found


def _token_after(last: Subscription, fingerprint: str, *, by_expiry: bool) -> str:
    if not by_expiry or last.expire_time is None:
        return encode_page_token(last.subscription_id, fingerprint=fingerprint)
    return encode_page_token(time_text(last.expire_time), last.subscription_id, fingerprint=fingerprint)


def _expiry_in_token(token: str, fingerprint: str) -> tuple[datetime, str]:
    if not token:
        return EPOCH, NIL
    key = decode_page_token(token, fingerprint)
    return _time_and_id(key)


def _due_of(key: tuple[str, ...]) -> list_store.Due:
    organization_id, *rest = key
    due_time, subscription_id = _time_and_id(tuple(rest))
    return due_time, organization_id, subscription_id


def _due_key(last: Subscription, *, set_aside: bool) -> tuple[str, str, str]:
    moment = last.set_aside_time if set_aside else last.due_time
    assert moment is not None
    return last.organization_id, time_text(moment), last.subscription_id


def _time_and_id(key: tuple[str, ...]) -> tuple[datetime, str]:
    try:
        moment, subscription_id = time_of_text(key[0]), key[1]
    except (ValueError, IndexError):
        raise foreign_token() from None
    if len(key) != 2 or not is_id(subscription_id):
        raise foreign_token()
    return moment, subscription_id


def _sequence_in_token(token: str, fingerprint: str) -> int:
    text = text_in_token(token, fingerprint)
    if text is None:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > _SEQUENCE_DIGITS_MAX:
        raise foreign_token()
    return int(text)
