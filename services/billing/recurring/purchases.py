"""Subscribes whom a plan was bought for, once the first payment of its checkout is completed.

The payment and the money that it brings are one transaction, which leaves a next step. The step is done again until it
is done: it finds what an earlier attempt has made by the request id, which is the payment's.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from libs.common.amount import format_amount
from libs.common.clock import Clock
from libs.common.database import RawConnection
from libs.common.errors import Conflict, Refusal
from libs.common.events.outbox import NewEvent, announce
from libs.common.shards import Shards
from services.billing import deleted_organizations, errors, next_steps
from services.billing.next_steps import NextStep, StepKind
from services.billing.payment.domain import Payment
from services.billing.recurring import store
from services.billing.recurring.paying import why_returned
from services.billing.subscription import event_store
from services.billing.subscription.charger import is_passing
from services.billing.subscription.creation import START_MAX, Creation, NewSubscription
from services.billing.subscription.domain import AgreedPlan, Subscription, Way
from services.billing.subscription.paid_changes import actor_of
from services.billing.subscription.progress import Progress

_TRIES_MAX: Final = 3
_MARGIN: Final = timedelta(hours=1)
"""What is left of the time back to which a subscription may begin, so that it is not over before it is made."""


class Purchases:
    """Makes subscriptions of payments."""

    def __init__(self, shards: Shards, creation: Creation, progress: Progress, clock: Clock) -> None:
        self._shards = shards
        self._creation = creation
        self._progress = progress
        self._clock = clock

    async def subscribe(self, payment: Payment, step: NextStep) -> str | None:
        """Subscribe whom the plan was bought for; return the subscription, or None where the money is kept.

        A live subscription to another plan is changed to this one. A payment that was refunded, or is disputed, by then
        subscribes nobody, nor does one for an organization that was deleted.

        Raises:
            Refusal: it cannot be done now; it is to be tried again.
        """
        plan = AgreedPlan(payment.plan_id or "", payment.plan_code or "", payment.plan_version or 0)
        returned = why_returned(payment) or await self._why_deleted(payment.organization_id)
        for _ in range(_TRIES_MAX):
            live_id = payment.subscription_id
            was_made = bool(live_id or returned) and await self._was_made(payment)
            if live_id is None and returned and not was_made:
                await self._keep(payment, None, returned, step)
                return None
            if live_id is None or was_made:
                try:
                    return (await self._made(payment, plan)).subscription_id
                except errors.SubscriptionExists as taken:
                    live_id = taken.facts["subscription_id"]
            changed, problem = await self._changed(payment, plan, live_id)
            if changed is None:
                # It has ended meanwhile, so a new one can be made.
                payment = replace(payment, subscription_id=None)
                continue
            if problem:
                await self._keep(payment, changed, problem, step)
                return None
            return changed.subscription_id
        raise Conflict

    async def finish(self, connection: RawConnection, step: NextStep) -> bool:
        """Remove the step of a payment; return whether it was there, as it was when it was taken.

        The provider's subscription can be linked, or ended, from then on: its step is added.
        """
        if not await next_steps.done(connection, step):
            return False
        organization_id, now = step.organization_id, self._clock.now()
        for one in await store.find_externals(connection, organization_id):
            if one.payment_id == step.key:
                key = f"{one.provider}/{one.external_id}"
                await next_steps.add(connection, organization_id, StepKind.EXTERNAL_SUBSCRIPTION, key, now)
        return True

    async def _why_deleted(self, organization_id: str) -> str:
        async with self._shards.of(organization_id).raw_connection() as connection:
            deleted = await deleted_organizations.is_deleted(connection, organization_id)
        return deleted_organizations.REASON if deleted else ""

    async def _was_made(self, payment: Payment) -> bool:
        async with self._shards.of(payment.organization_id).raw_transaction() as connection:
            found = await event_store.find_request(connection, payment.organization_id, request_id_of(payment))
        return found is not None

    async def _made(self, payment: Payment, plan: AgreedPlan) -> Subscription:
        new = NewSubscription(
            payment.organization_id,
            user_id=payment.subscriber_user_id,
            plan_code=plan.plan_code,
            skip_trial=True,
            start_time=begins(payment, self._clock.now()),
        )

        async def also(connection: RawConnection, subscription_id: str) -> None:
            await store.set_subscription(connection, payment.organization_id, payment.payment_id, subscription_id)

        request_id = request_id_of(payment)
        return await self._creation.subscribe_to_bought(new, plan, payment.provider, request_id, also)

    async def _changed(self, payment: Payment, plan: AgreedPlan, live_id: str) -> tuple[Subscription | None, str]:
        """Change a live subscription to the plan; return it, and why that was not possible. None if it has ended."""
        key, request_id = (payment.organization_id, live_id), request_id_of(payment)
        live = await self._progress.run_due(*key, self._clock.now())
        async with self._shards.of(payment.organization_id).raw_connection() as connection:
            known = await event_store.find_of_request(connection, *key, request_id)
        if known is not None:
            return live, ""
        if not live.is_live:
            return None, ""
        problem = why_returned(payment) or why_kept(live, plan)
        if problem:
            return live, problem
        # The charge of the change finds the payment by the subscription.
        async with self._shards.of(payment.organization_id).raw_transaction() as connection:
            await store.set_subscription(connection, payment.organization_id, payment.payment_id, live_id)
        try:
            changed = await self._progress.change_plan_now(
                *key,
                plan=plan,
                reason="bought at a checkout",
                actor=actor_of(payment.provider),
                request_id=request_id,
            )
        except Refusal as refusal:
            if is_passing(refusal) or isinstance(refusal, errors.SubscriptionSetAside):
                raise
            return live, refusal.message
        return changed.subscription, ""

    async def _keep(self, payment: Payment, live: Subscription | None, problem: str, step: NextStep) -> None:
        """Leave the money on the balance, and say so once; what renews at the provider is ended there."""
        now, organization_id = self._clock.now(), payment.organization_id
        data = {
            "payment_id": payment.payment_id,
            "amount": {"currency_code": payment.currency_code, "value": format_amount(payment.amount)},
            "provider": payment.provider,
            "plan_code": payment.plan_code,
            "plan_version": payment.plan_version,
            "user_id": payment.subscriber_user_id,
            "subscription_id": None if live is None else live.subscription_id,
            "reason": problem,
        }
        event = NewEvent(organization_id, "tollhouse.payment.not_subscribed", f"payment/{payment.payment_id}", data)
        async with self._shards.of(organization_id).raw_transaction() as connection:
            if await self.finish(connection, step):
                await store.set_subscription(connection, organization_id, payment.payment_id, None)
                await announce(connection, [event], now)


def request_id_of(payment: Payment) -> str:
    """Return the id under which a payment subscribes. No caller can send it, since it has a space."""
    return f"payment {payment.payment_id}"


def begins(payment: Payment, now: datetime) -> datetime:
    """Return when a subscription begins that was bought: when it was paid, so that its periods are the provider's."""
    paid = payment.processed_time or now
    return now if paid < now - START_MAX + _MARGIN else min(max(paid, payment.create_time), now)


def why_kept(live: Subscription, plan: AgreedPlan) -> str:
    """Return why a live subscription is not changed to a plan that was bought; empty where it may be."""
    if live.collection is Way.PROVIDER:
        return f"the subscription is renewed by {live.collection_provider} already"
    if live.plan == plan:
        return "the subscription is to this version of the plan already"
    return ""
