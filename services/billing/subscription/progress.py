"""Works off what is due for subscriptions, and makes the changes that move money.

Each step has three parts, while the subscription's row is locked:

1. What will happen is decided and, where it moves money, written as a planned event in a transaction of its own.
2. The ledger makes the movements. Their operation ids follow from the event, so they are made once however often.
3. The event is completed, or what came instead of it is written, with the subscription after it.

A process may die between any two of them: the lock is gone then, and whoever locks the row next finds the planned
event and goes on from there. The lock is held on a connection of a pool of its own, so that those who wait for the
ledger never keep it from the connections that it needs.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog

from libs.common.clock import Clock
from libs.common.database import Database, RawConnection
from libs.common.errors import Conflict, NotFound, StaleEtag
from libs.common.shards import Shards
from services.billing import errors
from services.billing.ledger.engine import Engine
from services.billing.plan.domain import PastDueEnd
from services.billing.subscription import event_store, run_store, store
from services.billing.subscription.charger import Charger, is_passing
from services.billing.subscription.domain import (
    AgreedPlan,
    Agreement,
    Event,
    PlanTerms,
    Subscription,
    due_time_of,
)
from services.billing.subscription.execution import Counts, Execution, Work, count_set_aside, reason_of
from services.billing.subscription.minimum_store import has_usage_charges, spent
from services.billing.subscription.offers import Offers
from services.billing.subscription.paid_changes import change_plan, change_problem, resume, step_of
from services.billing.subscription.run_store import Due, Key
from services.billing.subscription.states import EventKind, may_happen
from services.billing.subscription.steps import (
    Cause,
    Step,
    charge_minimum,
    is_given_up,
    next_step,
    pay,
    source_reference,
)

_log = structlog.get_logger("subscriptions")

LOCKS_POOL_SIZE: Final = 8
_BATCHES_AT_ONCE: Final = 2
_SINGLES_AT_ONCE: Final = 2
"""With the batches, half of the pool of locks, which is what one of several shards may use of it."""
_STEPS_MAX: Final = 400
"""How many steps of one subscription are worked off while a caller waits. The run does the rest."""
_ROUNDS_MAX: Final = 5
"""How often a change begins again because something else became due meanwhile."""

Decide = Callable[[RawConnection, Agreement], Awaitable[Step | None]]


@dataclass(frozen=True, slots=True)
class Changed:
    """A subscription after a change, and the event that made it; None where nothing changed."""

    subscription: Subscription
    event: Event | None
    replayed: bool = False
    """Whether an earlier call with the same request_id has made it."""


class Progress:
    """Makes steps of subscriptions; see the module."""

    def __init__(
        self, shards: Shards, locks: Shards, engine: Engine, clock: Clock, offers: Offers, charger: Charger
    ) -> None:
        """`locks` are the same shards over a pool of LOCKS_POOL_SIZE that nothing else uses."""
        self._shards = shards
        self._locks = locks
        self._clock = clock
        self._offers = offers
        self._execution = Execution(engine, clock, charger)
        self._batches = asyncio.Semaphore(_BATCHES_AT_ONCE)
        self._singles = asyncio.Semaphore(_SINGLES_AT_ONCE)

    async def run_batch(self, number: int, until: datetime, limit: int) -> Counts:
        """Make one step of up to `limit` subscriptions of a shard for which something is due.

        Those that another process is at are skipped. One that fails is set aside and stops no other.
        """
        async with self._batches:
            keys: list[Key] = []
            try:
                async with self._locks[number].raw_transaction() as held:
                    due = await run_store.lock_due(held, until, limit)
                    keys = [one.key for one in due]
                    return await self._run_locked(self._shards[number], held, due, until)
            except Exception as error:
                if is_passing(error) or not keys:
                    raise
                _log.warning("period run fell back to one at a time", subscriptions=len(keys), exc_info=error)
            return await self._run_each(number, keys, until)

    async def run_due(
        self, organization_id: str, subscription_id: str, until: datetime, *, awaits: bool = True
    ) -> Subscription:
        """Make all steps that are due for a subscription by a moment, beginning with a planned one; return it then.

        One that was set aside is returned as it is. Without `awaits` no payment of a provider is awaited.

        Raises:
            NotFound: the organization has no such subscription.
            Conflict, Unavailable: it is not known what came of it; a later call goes on.
        """
        key = organization_id, subscription_id
        for _ in range(_STEPS_MAX):
            async with self._singles, self._locked(key) as (held, subscription):
                due = [Due(key, subscription)]
                done = await self._run_locked(self._shards.of(organization_id), held, due, until, awaits=awaits)
            if not done.done and not done.set_aside:
                return subscription
        return await self._find(key)

    async def change_plan_now(
        self,
        organization_id: str,
        subscription_id: str,
        *,
        plan: AgreedPlan,
        reason: str = "",
        actor: str,
        request_id: str = "",
        etag: str = "",
    ) -> Changed:
        """Change the plan of a subscription now, once what is due for it is done.

        With a request_id it is safe to repeat, also after a crash.

        Raises:
            NotFound, StaleEtag, SubscriptionSetAside: of the subscription.
            SubscriptionState, SamePlan, OtherCurrency: it cannot be changed so.
            InsufficientBalance, CurrencyMismatch: the account does not have the difference.
        """
        new = PlanTerms(plan, await self._offers.terms_of(plan))
        key = organization_id, subscription_id
        if request_id:
            subscription = await self.run_due(*key, self._clock.now())
            async with self._locks.of(organization_id).raw_connection() as connection:
                known = await event_store.find_of_request(connection, *key, request_id)
            if known is not None:
                return Changed(subscription, known, replayed=True)

        async def decide(held: RawConnection, agreement: Agreement) -> Step | None:
            problem = change_problem(agreement, new)
            if problem is not None:
                raise problem
            now = agreement.subscription.not_before(self._clock.now())
            cause = Cause(now, reason, actor, request_id or None)
            voided = await run_store.open_refills(held, organization_id, source_reference(agreement.subscription))
            return change_plan(agreement, new, now, cause, voided)

        return await self._make(key, etag, decide)

    async def preview_change(
        self, organization_id: str, subscription_id: str, *, plan: AgreedPlan, etag: str = ""
    ) -> Changed:
        """Return what `change_plan_now` would do, apart from what is due before it; raises as it does."""
        new = PlanTerms(plan, await self._offers.terms_of(plan))
        subscription = await self.run_due(organization_id, subscription_id, self._clock.now())
        now = subscription.not_before(self._clock.now())
        if etag and etag != subscription.etag:
            raise StaleEtag(resource_type="subscription")
        agreement = await self._agreement(subscription)
        problem = change_problem(agreement, new)
        if problem is not None:
            raise problem
        step = change_plan(agreement, new, now, Cause(now), ())
        return Changed(step.after, step.event)

    async def resume(
        self, organization_id: str, subscription_id: str, *, reason: str = "", actor: str, etag: str = ""
    ) -> Changed:
        """Resume a subscription that rests, or that was set aside; one that does neither is returned as it is.

        Raises:
            NotFound, StaleEtag: of the subscription.
            SubscriptionState: it has ended, or has not begun.
        """

        async def decide(_: RawConnection, agreement: Agreement) -> Step | None:
            state = agreement.subscription.state
            if state.entitles:
                return None
            if not may_happen(EventKind.RESUMED, state):
                raise errors.SubscriptionState(state=state.value, change="resumed")
            now = agreement.subscription.not_before(self._clock.now())
            return resume(agreement, now, Cause(now, reason, actor))

        return await self._make((organization_id, subscription_id), etag, decide, clears=True)

    async def retry_payment(self, organization_id: str, subscription_id: str, *, actor: str) -> Changed:
        """Pay what a subscription owes; where it owes nothing, nothing changes.

        Raises:
            NotFound: there is no such subscription.
            SubscriptionState: it has ended.
            InsufficientBalance, CurrencyMismatch: the account does not have it.
        """

        async def decide(_: RawConnection, agreement: Agreement) -> Step | None:
            subscription = agreement.subscription
            if subscription.state.is_final:
                raise errors.SubscriptionState(state=subscription.state.value, change="paid")
            if subscription.owed is None:
                return None
            now = subscription.not_before(self._clock.now())
            return pay(agreement, now, Cause(now, "", actor))

        return await self._make((organization_id, subscription_id), "", decide, clears=True)

    async def charge_minimum(
        self, organization_id: str, subscription_id: str, *, actor: str, etag: str = ""
    ) -> Changed:
        """Charge what is short of the minimum of the days that were used, before the subscription ends now.

        Raises NotFound, StaleEtag, SubscriptionSetAside: of the subscription.
        """

        async def decide(_: RawConnection, agreement: Agreement) -> Step | None:
            if agreement.subscription.minimum is None or not agreement.subscription.period_paid:
                return None
            now = agreement.subscription.not_before(self._clock.now())
            return charge_minimum(await self._with_spending(agreement, now), now, Cause(now, "", actor))

        return await self._make((organization_id, subscription_id), etag, decide)

    async def _make(self, key: Key, etag: str, decide: Decide, *, clears: bool = False) -> Changed:
        """Make the step that `decide` finds, once what is due is done. `clears` lets one go on that was set aside."""
        for _ in range(_ROUNDS_MAX):
            await self.run_due(*key, self._clock.now())
            async with self._singles, self._locked(key) as (held, subscription):
                if etag and etag != subscription.etag:
                    raise StaleEtag(resource_type="subscription")
                if subscription.set_aside_time is not None:
                    if not clears:
                        raise errors.SubscriptionSetAside(set_aside_reason=subscription.set_aside_reason)
                    etag = ""
                    await run_store.update(held, [_no_longer_set_aside(subscription, self._clock.now())])
                    continue
                if await run_store.find_planned(held, [key]):
                    continue
                agreement = await self._agreement(subscription)
                step = await decide(held, agreement)
                if step is None:
                    return Changed(subscription, None)
                work = Work(agreement, step, was_planned=False, is_audited=True)
                await self._execution.carry_out(self._shards.of(key[0]), held, [work])
            problem = work.failure or work.refusal
            if problem is not None:
                raise problem
            return Changed(work.step.after, work.step.event)
        raise Conflict

    @asynccontextmanager
    async def _locked(self, key: Key) -> AsyncIterator[tuple[RawConnection, Subscription]]:
        """Lock a subscription for the length of a block, in a transaction that is committed at its end."""
        async with self._locks.of(key[0]).raw_transaction() as held:
            await run_store.wait_for_locks(held)
            subscription = await store.lock(held, *key)
            if subscription is None:
                raise NotFound(resource_type="subscription", resource_name=key[1])
            yield held, subscription

    async def _run_each(self, number: int, keys: Sequence[Key], until: datetime) -> Counts:
        """Make one step of each of some subscriptions, one after another; what fails is set aside."""
        counts = Counts()
        for key in keys:
            try:
                async with self._locked(key) as (held, subscription):
                    counts += await self._run_locked(self._shards[number], held, [Due(key, subscription)], until)
            except Exception as error:  # noqa: BLE001 -- the others must have their turn, whatever the cause.
                if is_passing(error):
                    counts += Counts(left=1)
                    continue
                async with self._locks[number].raw_transaction() as connection:
                    await run_store.set_aside(connection, key, reason_of(error), self._clock.now())
                count_set_aside(key, error)
                counts += Counts(set_aside=1)
        return counts

    async def _run_locked(
        self, database: Database, held: RawConnection, due: Sequence[Due], until: datetime, *, awaits: bool = True
    ) -> Counts:
        """Make one step of each subscription, whose rows are locked on the connection `held`."""
        planned = await run_store.find_planned(held, [one.key for one in due])
        work: list[Work] = []
        counts = Counts()
        for one in due:
            try:
                found = await self._find_work(one, planned.get(one.key), until, awaits=awaits)
            except Exception as error:  # noqa: BLE001 -- the others must have their turn, whatever the cause.
                if is_passing(error):
                    counts += Counts(left=1)
                    continue
                await run_store.set_aside(held, one.key, reason_of(error), self._clock.now())
                count_set_aside(one.key, error)
                counts += Counts(set_aside=1)
            else:
                if found is not None:
                    work.append(found)
        if work:
            counts += await self._execution.carry_out(database, held, work)
        return counts

    async def _find_work(self, due: Due, planned: Event | None, until: datetime, *, awaits: bool) -> Work | None:
        if isinstance(due.found, Exception):
            raise due.found
        subscription = due.found
        if subscription.set_aside_time is not None:
            return None
        agreement = await self._agreement(subscription)
        if planned is not None:
            new = None if planned.plan is None else PlanTerms(planned.plan, await self._offers.terms_of(planned.plan))
            return Work(agreement, Step(planned, step_of(agreement, planned, new).after), was_planned=True)
        if is_given_up(agreement) and agreement.terms.past_due.end is PastDueEnd.CHANGE_PLAN:
            agreement = replace(agreement, fallback=await self._fallback(agreement))
        ends = due_time_of(subscription)
        if subscription.minimum is not None and ends is not None and ends <= until:
            agreement = await self._with_spending(agreement, ends)
        step = next_step(agreement, until, self._clock.now(), awaits=awaits)
        return None if step is None else Work(agreement, step, was_planned=False)

    async def _agreement(self, subscription: Subscription) -> Agreement:
        terms = await self._offers.terms(subscription)
        if subscription.next_plan is None:
            return Agreement(subscription, terms)
        return Agreement(subscription, terms, await self._offers.terms_of(subscription.next_plan))

    async def _with_spending(self, agreement: Agreement, until: datetime) -> Agreement:
        """Return the agreement with what counts towards its minimum until a moment."""
        s = agreement.subscription
        assert s.minimum is not None
        async with self._shards.of(s.organization_id).raw_connection() as connection:
            minimum = s.minimum.amount.currency_code, s.minimum.since
            key = s.organization_id, s.subscription_id
            has_them = s.usage_since is not None or await has_usage_charges(connection, *key, s.minimum.since)
            counted = await spent(connection, *key, *minimum, until)
            return replace(agreement, spent=counted, has_usage_charges=has_them)

    async def _fallback(self, agreement: Agreement) -> PlanTerms | None:
        """Return the plan to which an unpaid subscription goes; None where it cannot: it is archived, or costs."""
        try:
            offer = await self._offers.published(agreement.terms.past_due.fallback_plan_code)
        except (NotFound, errors.PlanArchived, errors.PlanNotPublished):
            return None
        return PlanTerms(offer.plan, offer.terms) if offer.terms.is_free else None

    async def _find(self, key: Key) -> Subscription:
        async with self._locks.of(key[0]).raw_connection() as connection:
            found = await store.find(connection, *key)
        if found is None:
            raise NotFound(resource_type="subscription", resource_name=key[1])
        return found


def _no_longer_set_aside(subscription: Subscription, now: datetime) -> Subscription:
    revision = subscription.revision + 1
    return replace(subscription, set_aside_time=None, set_aside_reason="", revision=revision, update_time=now)
