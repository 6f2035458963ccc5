"""What operators do with kept webhooks: list them, count them, let them be tried again."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from libs.common.audit.recording import PLATFORM, Changed, record_event
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import FieldViolation, InvalidArgument, NotFound
from libs.common.ids import MAX, is_id
from libs.common.pages import encode_page_token, page_size, text_in_token
from services.billing.errors import WebhookNotWaiting
from services.billing.payment.webhook import store
from services.billing.payment.webhook.domain import State
from services.billing.payment.webhook.store import Webhook

_COUNTS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Filter:
    """Which webhooks are listed."""

    state: State | None
    provider: str
    """Empty for all."""


class Webhooks:
    """Reads and changes the inbox for operators."""

    def __init__(self, platform: Database, clock: Clock, on_retry: Callable[[], None]) -> None:
        """`platform` is billing's own schema; `on_retry` is called when there is something to apply."""
        self._platform = platform
        self._clock = clock
        self._on_retry = on_retry

    async def page(self, wanted: Filter, size: int, page_token: str) -> tuple[list[Webhook], str]:
        """Return a page, the latest first, and the token of the next one."""
        fingerprint = f"webhooks/{wanted.state}/{wanted.provider}"
        before = text_in_token(page_token, fingerprint) or MAX
        if not is_id(before):
            raise InvalidArgument([FieldViolation("page_token", "is no token of this list")])
        size = page_size(size)
        async with self._platform.raw_connection() as connection:
            found = await store.list_before(connection, before, wanted.provider, wanted.state, size + 1)
        page = found[:size]
        more = len(found) > size
        return page, encode_page_token(page[-1].webhook_id, fingerprint=fingerprint) if more else ""

    async def retry(self, webhook_id: str) -> Webhook:
        """Let a webhook be tried again from the start.

        Raises:
            NotFound: there is no such webhook.
            WebhookNotWaiting: it was applied.
        """
        now = self._clock.now()
        async with self._platform.raw_transaction() as tx:
            found = await store.lock(tx, webhook_id)
            if found is None:
                raise NotFound(resource_type="webhook", resource_name=webhook_id)
            if found.state is State.APPLIED:
                raise WebhookNotWaiting
            retried = await store.retry(tx, webhook_id, now)
            await record_event(
                tx,
                now=now,
                organization_id=PLATFORM,
                resource_type="webhook",
                resource_id=webhook_id,
                changed=[Changed("state", found.state.value, State.WAITING.value)],
            )
        self._on_retry()
        return retried

    async def counts(self, provider: str, days: int) -> list[tuple[str, str, int]]:
        """Return the outcomes and kinds of a provider's webhooks with their counts, today and some days before."""
        since = self._clock.now().date() - timedelta(days=max(days, 1) - 1)
        async with self._platform.raw_connection() as connection:
            return await store.read_counts(connection, provider, since, _COUNTS_MAX)
