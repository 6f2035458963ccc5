"""Brings together what a provider says of a subscription that it renews, and what ours is.

The provider's newest word is stored, whatever the order of its webhooks, so this can be done again at any time. Where
ours will not be renewed any more, the provider is told so; otherwise ours follows the provider.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from libs.common.clock import Clock
from libs.common.shards import Shards
from services.billing import next_steps
from services.billing.next_steps import StepKind
from services.billing.payment import store as payment_store
from services.billing.payment.provider import (
    ExternalSubscriptionStatus,
    Provider,
    ProviderMisconfigured,
    Renewal,
)
from services.billing.recurring import store
from services.billing.recurring.agreeing import Here, Wanted, wanted
from services.billing.recurring.store import External
from services.billing.subscription import changes
from services.billing.subscription.charger import REFUSED
from services.billing.subscription.domain import Subscription, WaitsFor, Way
from services.billing.subscription.offers import Offers
from services.billing.subscription.paid_changes import actor_of
from services.billing.subscription.progress import Progress
from services.billing.subscription.states import State
from services.billing.subscription.steps import NOT_PAID
from services.billing.subscription.subscriptions import Subscriptions

SOON: Final = timedelta(seconds=5)
_SET_ASIDE_FOR: Final = timedelta(hours=1)
_PERIODS_MAX: Final = 36
"""How many periods of a subscription are paid at a time. More are paid at its next look."""
_CHANGES_MAX: Final = 4
"""How many changes are made until both sides agree: a pause that is taken back, and a cancellation after it."""
_Status = ExternalSubscriptionStatus


class Following:
    """Looks at subscriptions that providers renew."""

    def __init__(
        self,
        shards: Shards,
        providers: Mapping[str, Provider],
        subscriptions: Subscriptions,
        progress: Progress,
        offers: Offers,
        clock: Clock,
    ) -> None:
        self._shards = shards
        self._providers = providers
        self._subscriptions = subscriptions
        self._progress = progress
        self._offers = offers
        self._clock = clock

    async def look(self, organization_id: str, provider: str, external_id: str) -> datetime | None:
        """Bring both sides together; return when to look again, None where that is not known.

        Raises:
            ProviderError: the provider could not be told.
            Refusal: it cannot be done now; it is to be tried again.
        """
        async with self._shards.of(organization_id).raw_connection() as connection:
            external = await store.find_external(connection, organization_id, provider, external_id)
        if external is None:
            return None
        if external.subscription_id is None:
            external, again = await self._linked(external)
            if external.subscription_id is None:
                return again
        return await self._agree(external, external.subscription_id)

    async def look_at_all(self, organization_id: str, subscription_id: str) -> datetime | None:
        """Look at each that a provider renews for a subscription; see `look`."""
        async with self._shards.of(organization_id).raw_connection() as connection:
            found = await store.find_externals(connection, organization_id)
        times = [
            await self.look(organization_id, one.provider, one.external_id)
            for one in found
            if one.subscription_id == subscription_id
        ]
        return min((one for one in times if one is not None), default=None)

    async def settle(self, organization_id: str, subscription_id: str) -> datetime | None:
        """Have payments that have paid nothing pay what is owed and due; return when the next one will be used."""
        key = organization_id, subscription_id
        for _ in range(_PERIODS_MAX):
            now = self._clock.now()
            s = await self._progress.run_due(*key, now)
            if s.collection is Way.BALANCE or not s.is_live or not await self._has_unused(s):
                return None
            if s.set_aside_time is not None:
                return now + _SET_ASIDE_FOR
            if _owes(s):
                try:
                    assert s.collection_provider is not None, "what no provider collects has returned above"
                    actor = actor_of(s.collection_provider)
                    await self._progress.retry_payment(*key, actor=actor)
                except REFUSED:
                    return None
            elif s.awaited_until is None or s.period_end_time is None:
                return None
            elif s.period_end_time > now:
                return s.period_end_time
            else:
                await self._progress.run_due(*key, now, awaits=False)
        return self._clock.now() + SOON

    async def _has_unused(self, s: Subscription) -> bool:
        price = s.owed or (await self._offers.terms(s)).price
        async with self._shards.of(s.organization_id).raw_connection() as connection:
            return await store.find_unused(connection, s, price) is not None

    async def _linked(self, external: External) -> tuple[External, datetime | None]:
        """Link a provider's subscription to the one that its first payment has made, if there is one yet."""
        organization_id, payment_id = external.organization_id, external.payment_id
        async with self._shards.of(organization_id).raw_connection() as connection:
            first = await payment_store.find(connection, organization_id, payment_id)
            is_waiting = await next_steps.waits(connection, organization_id, StepKind.PAYMENT, payment_id)
        if is_waiting:
            return external, self._clock.now() + SOON
        if first is None or first.subscription_id is None:
            if first is not None and first.awarded and first.plan_id is not None:
                # The plan could not be subscribed to, so nothing is to be charged for it.
                await self._tell(external, Renewal.ENDED)
            return external, None
        async with self._shards.of(organization_id).raw_transaction() as connection:
            await store.link(connection, external, first.subscription_id)
        decide = partial(changes.collect_by, provider=external.provider)
        await self._change(external, first.subscription_id, f"renewed by {external.provider}", decide)
        return replace(external, subscription_id=first.subscription_id), None

    async def _agree(self, external: External, subscription_id: str) -> datetime | None:
        key = external.organization_id, subscription_id
        here = await self._here(external, subscription_id)
        what = wanted(external, here, self._clock.now())
        for _ in range(_CHANGES_MAX):
            if isinstance(what, Wanted):
                await self._follow(external, subscription_id, what)
                here = await self._here(external, subscription_id)
                what = wanted(external, here, self._clock.now())
        if isinstance(what, Renewal):
            await self._tell(external, what)
        if not here.is_current or here.subscription.collection is not Way.PROVIDER:
            return None
        times = [await self.settle(*key), await self._next_look(external, subscription_id)]
        return min((one for one in times if one is not None), default=None)

    async def _here(self, external: External, subscription_id: str) -> Here:
        key = external.organization_id, subscription_id
        s = await self._progress.run_due(*key, self._clock.now())
        async with self._shards.of(external.organization_id).raw_connection() as connection:
            all_of_it = await store.find_externals(connection, external.organization_id)
            changed = await store.renewal_changed(connection, *key)
            paused_by = await store.paused_by(connection, *key)
        last = [one for one in all_of_it if one.subscription_id == subscription_id][-1]
        return Here(s, is_current=last.external_id == external.external_id, changed=changed, paused_by=paused_by)

    async def _follow(self, external: External, subscription_id: str, what: Wanted) -> None:
        key, name = (external.organization_id, subscription_id), external.provider
        match what:
            case Wanted.RESUME:
                actor = actor_of(name)
                # Where the period under way is not paid, it is past due then.
                with suppress(*REFUSED):
                    await self._progress.resume(*key, reason=f"resumed at {name}", actor=actor)
            case Wanted.PAY:
                await self._progress.run_due(*key, self._clock.now(), awaits=False)
            case Wanted.PAUSE:
                await self._change(external, subscription_id, f"paused at {name}", changes.pause)
            case Wanted.SCHEDULE:
                decide = changes.cancel_at_period_end
                await self._change(external, subscription_id, f"cancelled at {name}", decide)
            case Wanted.WITHDRAW:
                decide = changes.withdraw_cancellation
                await self._change(external, subscription_id, f"resumed at {name}", decide)
            case Wanted.CANCEL:
                await self._change(external, subscription_id, f"cancelled at {name}", changes.cancel_now)
            case Wanted.EXPIRE:
                await self._change(external, subscription_id, f"expired at {name}", changes.expire)

    async def _change(self, external: External, subscription_id: str, reason: str, decide: changes.Decision) -> None:
        actor = actor_of(external.provider)
        await self._subscriptions.change(external.organization_id, subscription_id, "", reason, decide, actor=actor)

    async def _next_look(self, external: External, subscription_id: str) -> datetime | None:
        """Return when something follows from what the provider has said already."""
        now = self._clock.now()
        s = await self._progress.run_due(external.organization_id, subscription_id, now)
        times = [
            external.ends_time if external.status is _Status.CANCELLED else None,
            s.period_end_time if external.status is _Status.PAST_DUE and s.awaited_until is not None else None,
        ]
        is_live = s.is_live and s.set_aside_time is None
        return min((one for one in times if one is not None and one > now), default=None) if is_live else None

    async def _tell(self, external: External, renewal: Renewal) -> None:
        if external.status in (_Status.CANCELLED, _Status.EXPIRED) and renewal is not Renewal.RENEWS:
            return
        provider = self._providers.get(external.provider)
        if provider is None:
            raise ProviderMisconfigured(f"{external.provider} is not set up")
        await provider.set_renewal(external.external_id, renewal)


def _owes(s: Subscription) -> bool:
    """Return whether a payment is to be made now. One that an operator has suspended stays so."""
    if s.owed is None:
        return False
    is_waiting = s.state is State.PAST_DUE or s.waits_for is WaitsFor.PAYMENT
    return is_waiting or (s.state is State.SUSPENDED and s.state_reason == NOT_PAID)
