"""Takes webhooks in: checks the signature, keeps each once, and answers. Nothing is applied before the answer.

Killed before the commit, nothing was kept, and the provider sends the webhook again, since it was not answered. Killed
after it, the webhook is applied by whichever process runs next; if the provider sends it again, it is known.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import FieldViolation, InvalidArgument, NotFound
from libs.common.group_commit import BatchLimits, GroupCommit
from libs.common.ids import NIL, new_id
from libs.common.shards import Shards
from services.billing.errors import WebhookIdReused, WebhookSignatureRefused
from services.billing.payment.provider import Ignored, SignatureRefused, Unreadable
from services.billing.payment.providers.registry import Providers
from services.billing.payment.webhook import store
from services.billing.payment.webhook.counts import Counts
from services.billing.payment.webhook.domain import (
    BODY_BYTES_MAX,
    KIND_CHARS_MAX,
    Outcome,
    State,
    Worlds,
    digest_of,
)
from services.billing.payment.webhook.store import NewWebhook

_LIMITS: Final = BatchLimits(items_max=200, queued_max=2_000, running_max=1, shards_max=1, full_at=200, wait_max_s=1.0)
"""At most some hundred megabytes of bodies wait, and as a rule some hundred kilobytes."""


@dataclass(frozen=True, slots=True)
class Received:
    """What became of a webhook that was taken."""

    webhook_id: str
    """Empty for one that is not kept, since it says nothing of payments."""
    replayed: bool
    """Whether it had come before."""


class Inbox:
    """Keeps what providers send. Webhooks that come at the same time share a transaction."""

    def __init__(
        self,
        providers: Providers,
        worlds: Worlds,
        platform: Database,
        clock: Clock,
        counts: Counts,
        on_kept: Callable[[], None],
    ) -> None:
        """`platform` is billing's own schema; `on_kept` is called when there is something to apply."""
        self._providers = providers
        self._worlds = worlds
        self._clock = clock
        self._counts = counts
        self._on_kept = on_kept
        self._commits: GroupCommit[NewWebhook, Received] = GroupCommit(
            "webhooks", _keep, Shards([platform]), _LIMITS, lambda _: NIL
        )

    async def receive(self, provider: str, headers: Mapping[str, str], body: bytes) -> Received:
        """Take a webhook; the names of the headers are in lower case.

        Raises:
            NotFound: no webhooks of this provider are taken.
            WebhookSignatureRefused: its signature is missing, wrong or too old.
            InvalidArgument: it is too large, or not what the provider documents.
            WebhookIdReused: another webhook had its id.
        """
        configured = self._providers.get(provider)
        if configured is None or not configured.webhook_secrets:
            raise NotFound(resource_type="provider", resource_name=provider)
        if len(body) > BODY_BYTES_MAX:
            self._counts.add(provider, Outcome.OVERSIZED)
            raise InvalidArgument([FieldViolation("body", f"must have at most {BODY_BYTES_MAX} bytes")])
        try:
            configured.provider.verify(headers, body, configured.webhook_secrets, self._clock.now())
        except SignatureRefused:
            self._counts.add(provider, Outcome.FORGED)
            # Whoever forges learns nothing of what was wrong.
            raise WebhookSignatureRefused from None
        try:
            parsed = configured.provider.parse(body)
        except Unreadable as flaw:
            self._counts.add(provider, Outcome.UNREADABLE)
            raise InvalidArgument(
                [FieldViolation("body", f"is not what the provider documents: {str(flaw).rstrip('.')}")]
            ) from None
        if isinstance(parsed, Ignored):
            self._counts.add(provider, Outcome.IGNORED, parsed.kind)
            return Received("", replayed=False)
        objection = self._worlds[provider].objection(parsed.facts)
        new = NewWebhook(
            webhook_id=new_id(),
            provider=provider,
            event_id=parsed.event_id,
            kind=parsed.kind[:KIND_CHARS_MAX],
            state=State.WAITING if objection is None else State.REFUSED,
            reason="" if objection is None else objection.value,
            body=body,
            body_sha256=hashlib.sha256(body).digest(),
            facts_sha256=digest_of(parsed),
            receive_time=self._clock.now(),
        )
        (answer,) = await self._commits.submit([new])
        if isinstance(answer, WebhookIdReused):
            self._counts.add(provider, Outcome.ALTERED, parsed.kind)
        if isinstance(answer, Exception):
            raise answer
        self._count(new, answer)
        return answer

    async def drain(self) -> None:
        """Take nothing more, and return when all that was taken is kept."""
        await self._commits.drain()

    def _count(self, new: NewWebhook, answer: Received) -> None:
        if answer.replayed:
            self._counts.add(new.provider, Outcome.REPEATED, new.kind)
            return
        self._counts.add(new.provider, Outcome.RECEIVED, new.kind)
        if new.state is State.REFUSED:
            self._counts.add(new.provider, Outcome.REFUSED, new.kind)
        else:
            self._on_kept()


async def _keep(
    database: Database, new: Sequence[NewWebhook], let_next_begin: Callable[[], None]
) -> list[Received | Exception]:
    """Keep a batch; of equal ones the first is kept, and the others are compared with it."""
    async with database.raw_transaction() as tx:
        kept_now = await store.insert(tx, new)
        known = await store.find_kept(tx, [one.key for one in new if one.webhook_id not in kept_now])
    return [_answer(one, known.get(one.key), is_new=one.webhook_id in kept_now) for one in new]


def _answer(new: NewWebhook, kept: store.Kept | None, *, is_new: bool) -> Received | Exception:
    if is_new or kept is None:
        return Received(new.webhook_id, replayed=False)
    # Stripe writes into each event how many deliveries are outstanding, so a repeat may have other bytes.
    if kept.body_sha256 != new.body_sha256 and kept.facts_sha256 != new.facts_sha256:
        return WebhookIdReused(provider=new.provider)
    return Received(kept.webhook_id, replayed=True)
