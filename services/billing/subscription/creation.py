"""Makes subscriptions: for callers, and the free one that each new organization gets once."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from libs.common.call import current_actor, is_limited
from libs.common.clock import Clock
from libs.common.database import ConstraintViolation, RawConnection
from libs.common.errors import Conflict, FieldViolation, InvalidArgument, NotFound
from libs.common.ids import new_id
from libs.common.repeats.once import Repeatable, known_answer
from libs.common.shards import Shards
from services.billing import deleted_organizations, errors
from services.billing.clients.subjects import Subjects
from services.billing.plan.domain import Entitlement, Interval, ProviderReference
from services.billing.plan.experiments import Experiments
from services.billing.subscription import event_store, list_store, store
from services.billing.subscription.announcements import announce_all
from services.billing.subscription.collection import SavedMethods
from services.billing.subscription.domain import (
    AgreedPlan,
    Event,
    Subject,
    Subscription,
    WaitsFor,
    Way,
    due_time_of,
    trial_end_of,
)
from services.billing.subscription.entitlement_store import touch_entitlements
from services.billing.subscription.offers import LIMITS_OF_MODELS, Offer, Offers, require_subject
from services.billing.subscription.paid_changes import actor_of
from services.billing.subscription.periods import OutsideCalendar
from services.billing.subscription.progress import Progress
from services.billing.subscription.self_service import SelfService
from services.billing.subscription.states import EventKind, State

FREE: Final = "free"
"""The code of the plan that new organizations get."""
START_MAX: Final = timedelta(days=366)
"""How far back or ahead of now a subscription may begin."""
ANCHOR_MAX: Final = timedelta(days=3_653)
"""How long before its start a subscription's periods may be counted from."""
_FREE_REQUEST: Final = Repeatable("the free plan of a new organization", "SubscribeToFree", b"", lambda _: "body")
"""No caller can send this request id, since it has spaces."""
_INSERTS_MAX: Final = 3
_LOST_RACES: Final = frozenset(
    {
        "subscription_references_pkey",
        "subscriptions_live_organization_once",
        "subscriptions_live_user_once",
        "subscriptions_live_model_once",
    }
)


Also: TypeAlias = Callable[[RawConnection, str], Awaitable[None]]
"""Writes more in the transaction that makes the subscription of an id."""


@dataclass(frozen=True, slots=True)
class NewSubscription:
    """A subscription that is to be made."""

    organization_id: str
    user_id: str | None = None
    model: str | None = None
    plan_code: str = ""
    """Empty for a model without a plan."""
    skip_trial: bool = False
    start_time: datetime | None = None
    """None for now."""
    expire_time: datetime | None = None
    anchor_time: datetime | None = None
    time_zone: str = "UTC"
    limits: tuple[Entitlement, ...] = ()
    customer_reference: str = ""
    references: tuple[ProviderReference, ...] = ()
    """Sorted."""
    metadata: dict[str, str] | None = None
    collection_provider: str | None = None
    """The provider that charges the organization's saved method; None for the balance."""

    @property
    def subject(self) -> Subject:
        if self.model is not None:
            return Subject.MODEL
        return Subject.ORGANIZATION if self.user_id is None else Subject.USER

    @property
    def is_plain(self) -> bool:
        """Whether it has nothing but what callers that are no operators or services may choose."""
        mine = NewSubscription(
            self.organization_id,
            self.user_id,
            self.model,
            self.plan_code,
            skip_trial=self.skip_trial,
            time_zone=self.time_zone,
        )
        return self == mine


class Creation:
    """Makes subscriptions. Whoever sends a request again with its id gets the subscription that the first one made."""

    def __init__(
        self,
        shards: Shards,
        offers: Offers,
        experiments: Experiments,
        progress: Progress,
        clock: Clock,
        *,
        self_service: SelfService,
        models_need_approval: bool,
        subjects: Subjects,
        saved_methods: SavedMethods,
    ) -> None:
        self._shards = shards
        self._offers = offers
        self._experiments = experiments
        self._progress = progress
        self._clock = clock
        self._self_service = self_service
        self._models_need_approval = models_need_approval
        self._subjects = subjects
        self._saved_methods = saved_methods

    async def create(self, new: NewSubscription, repeatable: Repeatable) -> tuple[Subscription, bool]:
        """Make a subscription, begin it if it is due, and return it as it is then, and whether this is a repeat.

        Raises:
            InvalidArgument: a time is out of its range.
            NotFound: the plan, the user or the model does not exist, the user is not of the organization, or that was
                deleted.
            PlanNotPublished, PlanArchived, NotForSelfService: the plan cannot be subscribed to.
            SubscriptionExists: the subject has a live one.
            TrialUsed: the subject had a trial.
            MinimumOfOrganization: the plan has a minimum, and the subject is a user or a model.
            ProviderReferenceTaken: a reference is another subscription's.
            RequestIdReused: the request id was sent before with another body.
            PaymentProviderUnknown, PaymentProviderCannot, NoSavedMethod: the provider cannot charge the organization.
            Unavailable: identity or metering cannot be asked.
        """
        known = await self._known(new.organization_id, repeatable)
        if known is None:
            offer = await self._allowed_offer(new)
            await self._subjects.require(new.organization_id, new.user_id, new.model)
            if new.collection_provider is not None:
                await self._saved_methods.require(new.organization_id, new.collection_provider)
            offer = await self._own_offer(new, offer)
            subscription = self._pending(new, offer)
            known = await self._insert(subscription, repeatable)
            replayed = known != subscription.subscription_id
        else:
            replayed = True
        return await self._progress.run_due(new.organization_id, known, self._clock.now()), replayed

    async def subscribe_to_free(self, organization_id: str) -> Subscription | None:
        """Subscribe a new organization to the plan `free`, once ever; return the subscription that this made.

        None where it was done before, where the organization has a plan already, and where the platform offers no plan
        of that code. It is safe to call again after a crash, and when the subscription was cancelled since.
        """
        if await self._known(organization_id, _FREE_REQUEST) is not None:
            return None
        new = NewSubscription(organization_id, plan_code=FREE)
        try:
            offer = await self._own_offer(new, await self._offers.published(FREE))
        except (NotFound, errors.PlanArchived, errors.PlanNotPublished):
            return None
        subscription = self._pending(new, offer)
        try:
            made = await self._insert(subscription, _FREE_REQUEST)
        except (errors.SubscriptionExists, errors.TrialUsed):
            return None
        if made != subscription.subscription_id:
            return None
        return await self._progress.run_due(organization_id, made, self._clock.now())

    async def subscribe_to_bought(
        self, bought: NewSubscription, plan: AgreedPlan, provider: str, request_id: str, also: Also
    ) -> Subscription:
        """Subscribe to a version of a plan that was bought at a provider, without its trial; once for a request id.

        `also` is run in the transaction that makes the subscription.

        Raises:
            SubscriptionExists: the subject has a live one.
            NotFound: the organization was deleted.
        """
        repeatable = Repeatable(request_id, "SubscribeToBought", b"", lambda _: "body")
        known = await self._known(bought.organization_id, repeatable)
        if known is None:
            pending = replace(
                self._pending(bought, Offer(plan, await self._offers.terms_of(plan), active=True)),
                collection=Way.PROVIDER,
                collection_provider=provider,
                actor=actor_of(provider),
            )
            known = await self._insert(pending, repeatable, also)
        return await self._progress.run_due(bought.organization_id, known, self._clock.now())

    async def _known(self, organization_id: str, repeatable: Repeatable) -> str | None:
        """Return the id of the subscription that an earlier request with the same id made."""
        if not repeatable.request_id:
            return None
        async with self._shards.of(organization_id).raw_transaction() as connection:
            found = await event_store.find_request(connection, organization_id, repeatable.request_id)
        return None if found is None else known_answer(repeatable, *found).decode()

    async def _allowed_offer(self, new: NewSubscription) -> Offer | None:
        limited = is_limited()
        if limited and not new.is_plain:
            raise errors.NotForSelfService(what="To choose more than the plan, the subject and the time zone")
        if not new.plan_code:
            return None
        offer = await self._offers.published(new.plan_code)
        if limited and not self._self_service.offers(new.plan_code, active=offer.active):
            raise errors.NotForSelfService(what=f"The plan {new.plan_code}")
        return offer

    async def _own_offer(self, new: NewSubscription, offer: Offer | None) -> Offer | None:
        """Return what the subject gets for an offer: another plan where an experiment says so."""
        if offer is None:
            return None
        plan_code = await self._experiments.plan_code_for(new.organization_id, new.user_id, new.plan_code)
        own = offer if plan_code == new.plan_code else await self._offers.published(plan_code)
        require_subject(new.subject, own)
        return own

    def _pending(self, new: NewSubscription, offer: Offer | None) -> Subscription:
        """Return the subscription as it begins: waiting for its start, or for its approval."""
        now = self._clock.now()
        start_time = now if new.start_time is None else new.start_time
        _check_times(new, start_time, now)
        trial = None if offer is None or new.skip_trial else offer.terms.trial
        needs_approval = new.subject is Subject.MODEL and self._models_need_approval
        pending = Subscription(
            organization_id=new.organization_id,
            subscription_id=new_id(),
            subject=new.subject,
            user_id=new.user_id,
            model=new.model,
            plan=None if offer is None else offer.plan,
            limits=(new.limits or LIMITS_OF_MODELS) if offer is None else None,
            state=State.PENDING,
            state_reason="",
            state_time=now,
            waits_for=WaitsFor.APPROVAL if needs_approval else WaitsFor.START,
            start_time=start_time,
            trial_end_time=_trial_end(start_time, trial, new.time_zone),
            expire_time=new.expire_time,
            anchor_time=new.anchor_time,
            time_zone=new.time_zone,
            period_number=None,
            period_start_time=None,
            period_end_time=None,
            period_paid=False,
            cancel_at_period_end=False,
            next_plan=None,
            payment_attempts=0,
            next_payment_time=None,
            owed=None,
            due_time=None,
            set_aside_time=None,
            set_aside_reason="",
            last_sequence=1,
            customer_reference=new.customer_reference,
            metadata=new.metadata or {},
            actor=current_actor(),
            revision=1,
            create_time=now,
            update_time=now,
            references=new.references,
            collection=Way.BALANCE if new.collection_provider is None else Way.SAVED_METHOD,
            collection_provider=new.collection_provider,
        )
        return replace(pending, due_time=due_time_of(pending))

    async def _insert(self, subscription: Subscription, repeatable: Repeatable, also: Also | None = None) -> str:
        """Store a subscription; return its id, or that of the one that the same request made meanwhile."""
        organization_id = subscription.organization_id
        for _ in range(_INSERTS_MAX):
            try:
                async with self._shards.of(organization_id).raw_transaction() as connection:
                    made = await self._insert_in(connection, subscription, repeatable)
                    if also is not None:
                        await also(connection, made)
                    return made
            except ConstraintViolation as error:
                # Another request was faster. What it made is there now, and tells why this one is refused.
                if error.constraint not in _LOST_RACES:
                    raise
        raise Conflict

    async def _insert_in(self, connection: RawConnection, new: Subscription, repeatable: Repeatable) -> str:
        organization_id = new.organization_id
        if repeatable.request_id:
            found = await event_store.find_request(connection, organization_id, repeatable.request_id)
            if found is not None:
                return known_answer(repeatable, *found).decode()
        await deleted_organizations.require_not_deleted(connection, organization_id)
        await self._require_free_subject(connection, new)
        await require_free_references(connection, new)
        await store.insert(connection, new)
        created = _created(new, repeatable.request_id or None)
        await event_store.add(connection, created)
        await announce_all(connection, [(created, new)], new.create_time)
        if repeatable.request_id:
            await event_store.keep_request(
                connection,
                organization_id,
                request_id=repeatable.request_id,
                rpc=repeatable.rpc,
                request=repeatable.request,
                response=new.subscription_id.encode(),
                now=new.create_time,
            )
        await event_store.record_change(connection, None, new)
        await touch_entitlements(connection, [organization_id])
        return new.subscription_id

    async def _require_free_subject(self, connection: RawConnection, new: Subscription) -> None:
        subject = new.organization_id, new.user_id, new.model
        live = await store.find_live(connection, *subject)
        if live is not None:
            raise errors.SubscriptionExists(subscription_id=live.subscription_id)
        if new.trial_end_time is not None:
            used = await list_store.find_with_trial(connection, *subject)
            if used is not None:
                raise errors.TrialUsed(subscription_id=used.subscription_id)


async def require_free_references(connection: RawConnection, subscription: Subscription) -> None:
    """Raise ProviderReferenceTaken if another subscription of the organization has one of the references."""
    s = subscription
    taken = await store.find_taken(connection, s.organization_id, s.subscription_id, s.references)
    if taken is not None:
        raise errors.ProviderReferenceTaken(
            provider=taken.provider, kind=taken.kind, external_id=taken.external_id, resource_type="subscription"
        )


def _check_times(new: NewSubscription, start_time: datetime, now: datetime) -> None:
    violations = []
    if not now - START_MAX <= start_time <= now + START_MAX:
        violations.append(FieldViolation("start_time", "must be at most a year back or ahead"))
    if new.expire_time is not None and new.expire_time <= max(start_time, now):
        violations.append(FieldViolation("expire_time", "must be in the future, and after start_time"))
    if new.anchor_time is not None and not start_time - ANCHOR_MAX <= new.anchor_time <= start_time:
        violations.append(FieldViolation("anchor_time", "must be within the ten years before start_time"))
    if violations:
        raise InvalidArgument(violations)


def _trial_end(start_time: datetime, trial: Interval | None, time_zone: str) -> datetime | None:
    try:
        return trial_end_of(start_time, trial, time_zone)
    except OutsideCalendar:
        raise InvalidArgument([FieldViolation("start_time", "is too late for the plan's trial")]) from None


def _created(new: Subscription, request_id: str | None) -> Event:
    return Event(
        organization_id=new.organization_id,
        subscription_id=new.subscription_id,
        sequence=new.last_sequence,
        kind=EventKind.CREATED,
        planned=False,
        from_state=None,
        to_state=new.state,
        reason="",
        actor=new.actor,
        effective_time=new.create_time,
        create_time=new.create_time,
        plan=new.plan,
        request_id=request_id,
    )
