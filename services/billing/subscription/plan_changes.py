"""Changes the plan of a subscription: now, which moves money, or when the period ends, which does not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from libs.common.call import current_actor, is_limited
from libs.common.clock import Clock
from libs.common.errors import StaleEtag
from libs.common.repeats.once import Repeatable, known_answer
from libs.common.shards import Shards
from services.billing import errors
from services.billing.plan.experiments import Experiments
from services.billing.subscription import changes, event_store
from services.billing.subscription.collection import require_renewed_here
from services.billing.subscription.domain import Event, Line, Subscription
from services.billing.subscription.offers import Offer, Offers, require_subject
from services.billing.subscription.progress import Changed, Progress
from services.billing.subscription.self_service import SelfService
from services.billing.subscription.states import EventKind
from services.billing.subscription.subscriptions import Subscriptions


@dataclass(frozen=True, slots=True)
class PlanChange:
    """A change of plan that is asked for."""

    organization_id: str
    subscription_id: str
    plan_code: str
    at_period_end: bool
    validate_only: bool
    reason: str
    etag: str


@dataclass(frozen=True, slots=True)
class ChangedPlan:
    """What became of a change of plan."""

    subscription: Subscription
    replayed: bool
    lines: Sequence[Line]
    effective_time: datetime | None
    """None where nothing was changed."""


class PlanChanges:
    """Changes plans. Whoever sends a request again with its id is told what the first one did."""

    def __init__(
        self,
        shards: Shards,
        offers: Offers,
        experiments: Experiments,
        progress: Progress,
        subscriptions: Subscriptions,
        clock: Clock,
        *,
        self_service: SelfService,
    ) -> None:
        self._shards = shards
        self._offers = offers
        self._experiments = experiments
        self._progress = progress
        self._subscriptions = subscriptions
        self._clock = clock
        self._self_service = self_service

    async def change(self, wanted: PlanChange, repeatable: Repeatable) -> ChangedPlan:
        """Change the plan, have it changed when the period ends, or say what that would cost.

        Raises:
            NotFound: there is no such subscription or plan.
            PlanNotPublished, PlanArchived, NotForSelfService: the plan cannot be changed to.
            SamePlan, SubscriptionWithoutPlan, SubscriptionState, SubscriptionEnded: nor can that of the subscription.
            InsufficientBalance: the account does not have the difference.
            RenewedByProvider: a provider would go on charging the price of the plan that it has.
            MinimumOfOrganization: the plan has a minimum, and the subject is a user or a model.
            StaleEtag: the subscription has changed since it had this etag.
            RequestIdReused: the request id was sent before with another body.
        """
        if not wanted.validate_only:
            earlier = await self._earlier(wanted, repeatable)
            if earlier is not None:
                return earlier
        before = await self._progress.run_due(wanted.organization_id, wanted.subscription_id, self._clock.now())
        changes.require_live(before)
        require_renewed_here(before, "changed to another plan")
        if before.plan is None:
            raise errors.SubscriptionWithoutPlan
        offer = await self._allowed_offer(before, wanted)
        if wanted.validate_only:
            return await self._preview(before, wanted, offer)
        if wanted.at_period_end or before.plan == offer.plan:
            # A change to the plan that it has can only take a waiting one back.
            return await self._schedule(wanted, offer, repeatable)
        return await self._change_now(wanted, offer, repeatable)

    async def withdraw(self, organization_id: str, subscription_id: str, etag: str) -> Subscription:
        """Take a change back that waits for the end of the period. Raises NotFound, SubscriptionEnded, StaleEtag."""
        return await self._subscriptions.change(
            organization_id, subscription_id, etag, "", changes.withdraw_plan_change
        )

    async def _allowed_offer(self, before: Subscription, wanted: PlanChange) -> Offer:
        offer = await self._offers.published(wanted.plan_code)
        if is_limited() and not self._self_service.offers(wanted.plan_code, active=offer.active):
            raise errors.NotForSelfService(what=f"The plan {wanted.plan_code}")
        plan_code = await self._experiments.plan_code_for(
            before.organization_id, before.user_id, wanted.plan_code, keep=not wanted.validate_only
        )
        if plan_code != wanted.plan_code:
            offer = await self._offers.published(plan_code)
        require_subject(before.subject, offer)
        if not is_limited():
            return offer
        if not self._self_service.offers_change(await self._offers.terms(before), offer.terms):
            raise errors.NotForSelfService(what=f"A change to {wanted.plan_code}, which costs less,")
        return offer

    async def _preview(self, before: Subscription, wanted: PlanChange, offer: Offer) -> ChangedPlan:
        if wanted.at_period_end:
            if wanted.etag and wanted.etag != before.etag:
                raise StaleEtag(resource_type="subscription")
            intent = changes.Intent(current_actor(), wanted.reason, self._clock.now())
            change = changes.schedule_plan(before, intent, offer.plan)
            return ChangedPlan(before, False, (), None if change is None else effective_time(change.event))
        changed = await self._progress.preview_change(
            wanted.organization_id, wanted.subscription_id, plan=offer.plan, etag=wanted.etag
        )
        return replace(_changed(changed), subscription=before)

    async def _schedule(self, wanted: PlanChange, offer: Offer, repeatable: Repeatable) -> ChangedPlan:
        await self._bind(wanted, repeatable)
        decide = partial(changes.schedule_plan, new_plan=offer.plan)
        request_id = repeatable.request_id or None
        after = await self._subscriptions.change(
            wanted.organization_id,
            wanted.subscription_id,
            wanted.etag,
            wanted.reason,
            decide,
            request_id=request_id,
        )
        return ChangedPlan(after, False, (), after.period_end_time if after.next_plan else None)

    async def _change_now(self, wanted: PlanChange, offer: Offer, repeatable: Repeatable) -> ChangedPlan:
        await self._bind(wanted, repeatable)
        try:
            changed = await self._progress.change_plan_now(
                wanted.organization_id,
                wanted.subscription_id,
                plan=offer.plan,
                reason=wanted.reason,
                actor=current_actor(),
                request_id=repeatable.request_id,
                etag=wanted.etag,
            )
        except (errors.SamePlan, StaleEtag):
            # Perhaps the request was sent twice at a time, and the other one has made the change.
            earlier = await self._earlier(wanted, repeatable)
            if earlier is None:
                raise
            return earlier
        return _changed(changed)

    async def _bind(self, wanted: PlanChange, repeatable: Repeatable) -> None:
        """Store which request has this id, before it is carried out. The event names it, and says whether it was."""
        if not repeatable.request_id:
            return
        async with self._shards.of(wanted.organization_id).raw_transaction() as connection:
            found = await event_store.find_request(connection, wanted.organization_id, repeatable.request_id)
            if found is not None:
                known_answer(repeatable, *found)
                return
            await event_store.keep_request(
                connection,
                wanted.organization_id,
                request_id=repeatable.request_id,
                rpc=repeatable.rpc,
                request=repeatable.request,
                response=wanted.subscription_id.encode(),
                now=self._clock.now(),
            )

    async def _earlier(self, wanted: PlanChange, repeatable: Repeatable) -> ChangedPlan | None:
        """Return what an earlier request with the same id has done; None if it has done nothing yet."""
        if not repeatable.request_id:
            return None
        key = wanted.organization_id, wanted.subscription_id
        async with self._shards.of(wanted.organization_id).raw_transaction() as connection:
            found = await event_store.find_request(connection, wanted.organization_id, repeatable.request_id)
            if found is None:
                return None
            known_answer(repeatable, *found)
        before = await self._progress.run_due(*key, self._clock.now())
        async with self._shards.of(wanted.organization_id).raw_connection() as connection:
            event = await event_store.find_of_request(connection, *key, repeatable.request_id)
        if event is None:
            return None
        return ChangedPlan(before, True, event.lines, effective_time(event))


def effective_time(event: Event) -> datetime | None:
    """Return from when on a new plan holds; None where the event brings none."""
    if event.kind is EventKind.PLAN_CHANGE_SCHEDULED:
        return event.period_end_time
    return None if event.kind is EventKind.PLAN_CHANGE_WITHDRAWN else event.effective_time


def _changed(changed: Changed) -> ChangedPlan:
    event = changed.event
    if event is None:
        return ChangedPlan(changed.subscription, changed.replayed, (), None)
    return ChangedPlan(changed.subscription, changed.replayed, event.lines, effective_time(event))
