"""Changes subscriptions where that moves no money, and has `Progress` change them where it does."""

from datetime import datetime
from functools import partial
from typing import Final

from libs.common.call import current_actor, is_limited
from libs.common.clock import Clock
from libs.common.database import ConstraintViolation, RawConnection
from libs.common.errors import Conflict, FieldViolation, InvalidArgument, StaleEtag
from libs.common.shards import Shards
from services.billing import errors
from services.billing.subscription import changes, event_store, store, usage_period_store
from services.billing.subscription.announcements import announce_all
from services.billing.subscription.changes import Change, Decision, Intent
from services.billing.subscription.collection import SavedMethods, require_renewed_here, tell_providers
from services.billing.subscription.creation import require_free_references
from services.billing.subscription.domain import Agreement, Subscription, Updates
from services.billing.subscription.entitlement_store import touch_entitlements
from services.billing.subscription.listings import existing
from services.billing.subscription.offers import Offers
from services.billing.subscription.progress import Progress
from services.billing.subscription.self_service import SelfService
from services.billing.subscription.states import EventKind, State
from services.billing.subscription.usage_periods import ended_by_change

_ATTEMPTS_MAX: Final = 3
"""How often a change is tried while something falls due, or is done by others, at the same moment."""
_TOUCHING: Final = frozenset(EventKind) - {
    EventKind.PLAN_CHANGE_SCHEDULED,
    EventKind.PLAN_CHANGE_WITHDRAWN,
    EventKind.CANCELLATION_SCHEDULED,
    EventKind.CANCELLATION_WITHDRAWN,
}
"""The kinds of events after which a subject may use something else, or until another time."""


class Subscriptions:
    """The subscriptions of one organization at a time. Another organization's look like missing ones."""

    def __init__(
        self,
        shards: Shards,
        offers: Offers,
        progress: Progress,
        clock: Clock,
        *,
        self_service: SelfService,
        saved_methods: SavedMethods,
    ) -> None:
        self._shards = shards
        self._saved_methods = saved_methods
        self._offers = offers
        self._progress = progress
        self._clock = clock
        self._self_service = self_service

    async def approve(self, organization_id: str, subscription_id: str, etag: str, reason: str) -> Subscription:
        """Let a subscription to a model begin; one that was approved stays as it is.

        Raises NotFound, SubscriptionNotPending, StaleEtag.
        """
        found = await self._read(organization_id, subscription_id)
        trial = (await self._offers.terms(found)).trial
        decide = partial(changes.approve, trial=trial)
        await self.change(organization_id, subscription_id, etag, reason, decide, unless=EventKind.APPROVED)
        return await self._progress.run_due(organization_id, subscription_id, self._clock.now())

    async def reject(self, organization_id: str, subscription_id: str, etag: str, reason: str) -> Subscription:
        """End a subscription that waits for approval; raises as `approve` does."""
        key = organization_id, subscription_id
        return await self.change(*key, etag, reason, changes.reject, unless=EventKind.REJECTED)

    async def update(self, organization_id: str, subscription_id: str, etag: str, updates: Updates) -> Subscription:
        """Change fields. A subscription that was set aside is tried again.

        Raises NotFound, SubscriptionEnded, ProviderReferenceTaken, StaleEtag; InvalidArgument for an expire_time that
        has passed; and for a collection_provider RenewedByProvider, PaymentProviderUnknown, PaymentProviderCannot and
        NoSavedMethod.
        """
        provider = updates.values.get("collection_provider")
        if isinstance(provider, str):
            await self._read(organization_id, subscription_id)
            await self._saved_methods.require(organization_id, provider)
        expire_time = updates.values.get("expire_time")
        if isinstance(expire_time, datetime) and expire_time <= self._clock.now():
            raise InvalidArgument([FieldViolation("expire_time", "must be in the future")])
        decide = partial(changes.update, updates=updates)
        changed = await self.change(organization_id, subscription_id, etag, "", decide)
        if not self._is_due(changed):
            return changed
        return await self._progress.run_due(organization_id, subscription_id, self._clock.now())

    async def pause(self, organization_id: str, subscription_id: str, etag: str, reason: str) -> Subscription:
        """Let a subscription rest.

        Raises NotFound, SubscriptionState, SubscriptionEnded, RenewedByProvider, StaleEtag.
        """
        return await self.change(organization_id, subscription_id, etag, reason, _pause)

    async def suspend(self, organization_id: str, subscription_id: str, etag: str, reason: str) -> Subscription:
        """Stop a subscription; raises as `pause` does."""
        return await self.change(organization_id, subscription_id, etag, reason, changes.suspend)

    async def resume(self, organization_id: str, subscription_id: str, etag: str, reason: str) -> Subscription:
        """Let a subscription go on; raises as `pause` does. One that was set aside is tried again."""
        key = organization_id, subscription_id
        before = await self._progress.run_due(*key, self._clock.now())
        changes.require_live(before)
        if before.state.entitles and before.set_aside_time is None:
            return before
        return (await self._progress.resume(*key, reason=reason, actor=current_actor(), etag=etag)).subscription

    async def retry_payment(self, organization_id: str, subscription_id: str) -> Subscription:
        """Try to take what a subscription owes. One that was set aside is tried again, unless its holder asks.

        Raises NotFound, SubscriptionEnded, SubscriptionSetAside, InsufficientBalance.
        """
        key = organization_id, subscription_id
        before = await self._progress.run_due(*key, self._clock.now())
        changes.require_live(before)
        if before.set_aside_time is not None and is_limited():
            raise errors.SubscriptionSetAside(set_aside_reason=before.set_aside_reason)
        return (await self._progress.retry_payment(*key, actor=current_actor())).subscription

    async def cancel(
        self, organization_id: str, subscription_id: str, etag: str, reason: str, *, at_period_end: bool
    ) -> Subscription:
        """End a subscription, now or when the period does; raises as `pause` does, and NotForSelfService."""
        if is_limited() and not self._self_service.cancel:
            raise errors.NotForSelfService(what="Cancelling")
        decide = changes.cancel_at_period_end if at_period_end else changes.cancel_now
        if is_limited():
            decide = partial(_by_its_holder, decide=decide)
        if not at_period_end:
            etag = await self._charge_minimum(organization_id, subscription_id, etag, reason, decide)
        return await self.change(organization_id, subscription_id, etag, reason, decide)

    async def _charge_minimum(
        self, organization_id: str, subscription_id: str, etag: str, reason: str, decide: Decision
    ) -> str:
        """Charge what is short of the minimum of a subscription that is about to end; return its etag after that.

        A process that dies after it has charged it and not ended the subscription: the call is repeated, and ends it.
        Until then the period goes on without a minimum.
        """
        before = await self._progress.run_due(organization_id, subscription_id, self._clock.now())
        if before.minimum is None or not before.period_paid:
            return etag
        decide(before, Intent(current_actor(), reason, self._clock.now()))
        changed = await self._progress.charge_minimum(
            organization_id, subscription_id, actor=current_actor(), etag=etag
        )
        return etag and changed.subscription.etag

    async def withdraw_cancellation(self, organization_id: str, subscription_id: str, etag: str) -> Subscription:
        """Take a cancellation back that waits. Raises NotFound, SubscriptionEnded, StaleEtag."""
        return await self.change(organization_id, subscription_id, etag, "", changes.withdraw_cancellation)

    async def change(
        self,
        organization_id: str,
        subscription_id: str,
        etag: str,
        reason: str,
        decide: Decision,
        *,
        unless: EventKind | None = None,
        request_id: str | None = None,
        actor: str | None = None,
    ) -> Subscription:
        """Do what is due, then make the change that is decided on, and return the subscription.

        Nothing is changed where `unless` has happened, and where `decide` returns None. `actor` is who makes the
        change, where that is not the caller.

        Raises what `decide` does, and:
            NotFound: there is no such subscription.
            StaleEtag: it has changed since it had this etag.
            SubscriptionSetAside: a movement of it is half made, and an operator must look at it first.
        """
        key = organization_id, subscription_id
        for _ in range(_ATTEMPTS_MAX):
            found = await self._progress.run_due(*key, self._clock.now())
            if found.usage_since is not None:
                # They are in memory then, and need no further connection while this one is held.
                await self._offers.terms(found)
            try:
                async with self._shards.of(organization_id).raw_transaction() as connection:
                    before = existing(await store.lock(connection, *key), subscription_id)
                    if self._is_due(before):
                        continue
                    if await event_store.find_planned(connection, *key) is not None:
                        if before.set_aside_time is not None:
                            raise errors.SubscriptionSetAside(set_aside_reason=before.set_aside_reason)
                        continue
                    if unless is not None and await event_store.has_happened(connection, *key, unless):
                        return before
                    now = before.not_before(self._clock.now())
                    intent = Intent(actor or current_actor(), reason, now, request_id)
                    change = decide(before, intent)
                    if change is None:
                        return before
                    if etag and etag != before.etag:
                        raise StaleEtag(resource_type="subscription")
                    await _make(connection, before, change)
                    if change.after.usage_since != before.usage_since:
                        agreement = Agreement(before, await self._offers.terms(before))
                        ended = ended_by_change(agreement, change.after, change.event.effective_time)
                        await usage_period_store.add(connection, ended, self._clock.now())
                    return change.after
            except ConstraintViolation as error:
                if error.constraint != "subscription_references_pkey":
                    raise
        raise Conflict

    async def _read(self, organization_id: str, subscription_id: str) -> Subscription:
        async with self._shards.of(organization_id).raw_connection() as connection:
            return existing(await store.find(connection, organization_id, subscription_id), subscription_id)

    def _is_due(self, subscription: Subscription) -> bool:
        """Return whether something is due that can be done."""
        due_time = subscription.due_time
        return subscription.set_aside_time is None and due_time is not None and due_time <= self._clock.now()


def _pause(before: Subscription, intent: Intent) -> Change | None:
    """Decide for a caller, who cannot have a provider stop charging."""
    require_renewed_here(before, "paused")
    return changes.pause(before, intent)


def _by_its_holder(before: Subscription, intent: Intent, decide: Decision) -> Change | None:
    """Decide for a holder, who cannot end what an operator has suspended."""
    if before.state is State.SUSPENDED:
        raise errors.SubscriptionState(state=before.state.value, change="cancelled by its holder")
    return decide(before, intent)


async def _make(connection: RawConnection, before: Subscription, change: Change) -> None:
    after, event = change.after, change.event
    if after.references != before.references:
        await require_free_references(connection, after)
    await store.update(connection, before, after)
    await event_store.add(connection, event)
    await announce_all(connection, [(event, after)], after.update_time)
    await tell_providers(connection, [(before, after)])
    await event_store.record_change(connection, before, after)
    if event.kind in _TOUCHING:
        await touch_entitlements(connection, [after.organization_id])
