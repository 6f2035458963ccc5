"""Decides whether a call may begin, and stores the authorization.

The price version is stored before the hold is placed, so a hold never exists without the price to settle it with.
Authorizations that arrive together share one statement and one call to billing (see `libs.common.group_commit`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import OperationIdReused, Refusal, Unavailable
from libs.common.group_commit import GroupCommit
from libs.common.shards import Shards
from services.metering.admission import store
from services.metering.admission.callers import Caller, Callers
from services.metering.admission.denials import denied_hold, not_live, over_limit
from services.metering.admission.domain import (
    HOLD_LATE,
    OUTPUT_TOKENS_DEFAULT,
    Allowed,
    Ask,
    Decision,
    Denied,
    Pinned,
    Request,
    Stored,
    authorization_of,
    held_nanos,
    refusal_of_repeat,
)
from services.metering.admission.limits import amounts_of_ask, call_of
from services.metering.admission.policies import Known, Policies
from services.metering.admission.policy import DEFAULT, Policy
from services.metering.admission.writer import Waiting, Writer
from services.metering.clients.billing import BATCH_MAX, BillingClient, Held, HoldRequest, NotHeld
from services.metering.clients.identity import KeyPrincipal
from services.metering.errors import CostTooLarge
from services.metering.model.catalogue import Catalogue
from services.metering.model.domain import Rated, input_tokens_of, output_tokens_of, refusal_of_cost
from services.metering.model.rates import Unpriced
from services.metering.quota.calls import CallLimits
from services.metering.quota.counters import Counters, give_back
from services.metering.usage.dimensions import LIVE, TEST
from services.metering.usage.engine import UsageEngine, writer_limits
from services.metering.usage.store import label_text, quantities_text

_log = structlog.get_logger("admission")


class Admission:
    """Authorizes calls."""

    def __init__(
        self,
        shards: Shards,
        catalogue: Catalogue,
        callers: Callers,
        policies: Policies,
        billing: BillingClient,
        engine: UsageEngine,
        limits: CallLimits,
        counters: Counters,
        clock: Clock,
        *,
        queue_max: int,
    ) -> None:
        self._shards = shards
        self._catalogue = catalogue
        self._callers = callers
        self._policies = policies
        self._billing = billing
        self._engine = engine
        self._limits = limits
        self._writer = Writer(counters, clock)
        self._clock = clock
        self._commits: GroupCommit[Waiting, Decision] = GroupCommit(
            "authorizations", self._run, shards, writer_limits(BATCH_MAX, queue_max), lambda one: one.key[0]
        )

    async def authorize(self, requests: Sequence[Request]) -> list[Decision | Exception]:
        """Decide which calls may begin, at most 200, and return the outcome of each, in their order.

        The outcome of a call is an exception if it cannot be decided:
            OperationIdReused: the operation id was authorized with other fields.
            OperationIdInUse: the operation id was authorized before, and the request has fail_if_replayed set.
            OrganizationNotFound: identity does not know the principal's organization.
            CostTooLarge: the call may cost more than an amount can be.
            TooManyUnknownKeys: the client's address has presented more unknown keys than are looked up.
            Unavailable: identity or billing cannot be reached, or the limits or policy of its organization not read.

        Raises:
            Overloaded: too many calls wait already. None was taken.
            Unavailable: the catalogue cannot be read.
        """
        callers = await self._callers.identify(requests)
        outcomes: dict[int, Decision | Exception] = {}
        waiting: dict[int, Waiting] = {}
        stale: list[int] = []
        await self._know_all_prices(requests, callers)
        policies = await self._needed_policies(requests, callers)
        now = self._clock.now()
        for place, (request, caller) in enumerate(zip(requests, callers, strict=True)):
            if not isinstance(caller, Caller):
                outcomes[place] = caller
                continue
            if caller.stale_key:
                stale.append(place)
            policy = policies[caller.principal.organization_id] if request.needs_policy else DEFAULT
            if not isinstance(policy, Policy):
                outcomes[place] = policy
                continue
            pinned = self._pin(request, caller.principal, policy, now)
            if isinstance(pinned, Denied | CostTooLarge):
                outcomes[place] = pinned
            else:
                waiting[place] = Waiting(pinned, caller.principal)
        for place, outcome in (await self._find_limits(requests, waiting)).items():
            outcomes[place] = outcome
            del waiting[place]
        if waiting:
            decisions = await self._commits.submit(list(waiting.values()))
            outcomes.update(zip(waiting, decisions, strict=True))
        for place in stale:
            decided = outcomes[place]
            if not isinstance(decided, Exception):
                outcomes[place] = replace(decided, stale_key=True)
        return [outcomes[place] for place in range(len(requests))]

    async def close(self) -> None:
        """Take no more calls, and return when every waiting one has its decision."""
        await self._commits.drain()

    async def _know_all_prices(
        self, requests: Sequence[Request], callers: Sequence[Caller | Denied | Exception]
    ) -> None:
        """Refresh the catalogue, and once more from the database if it has no price for one of the calls."""
        await self._catalogue.refresh()
        now = self._clock.now()
        for request, caller in zip(requests, callers, strict=True):
            if isinstance(caller, Caller) and (
                self._catalogue.model(request.model) is None
                or self._catalogue.price(request.model, caller.principal.organization_id, now) is None
            ):
                await self._catalogue.refresh_for_unknown()
                return

    async def _needed_policies(
        self, requests: Sequence[Request], callers: Sequence[Caller | Denied | Exception]
    ) -> dict[str, Known]:
        """Return the policies of the organizations with a call that leaves to them what is held."""
        needed = {
            caller.principal.organization_id
            for request, caller in zip(requests, callers, strict=True)
            if request.needs_policy and isinstance(caller, Caller)
        }
        return await self._policies.of(needed) if needed else {}

    def _pin(
        self, request: Request, principal: KeyPrincipal, policy: Policy, now: datetime
    ) -> Pinned | Denied | CostTooLarge:
        model = self._catalogue.model(request.model)
        version = self._catalogue.price(request.model, principal.organization_id, now)
        if model is None:
            return Denied("MODEL_UNKNOWN", "The model is not in the catalogue.", {"model": request.model}, principal)
        if not model.active:
            return Denied("MODEL_INACTIVE", "The model is switched off.", {"model": request.model}, principal)
        if version is None:
            return Denied("PRICE_UNKNOWN", "The model has no price in force.", {"model": request.model}, principal)
        model_max = model.max_output_tokens or OUTPUT_TOKENS_DEFAULT
        input_tokens, output_tokens = request.input_tokens, request.max_output_tokens
        if request.estimate is not None:
            input_tokens, output_tokens = input_tokens_of(request.estimate), output_tokens_of(request.estimate)
        elif output_tokens is None:
            output_tokens = policy.output_tokens(model_max)
        held = held_nanos(
            version,
            input_tokens,
            output_tokens,
            request.estimate,
            request.quantities,
            request.service_tier,
            self._catalogue.units,
        )
        if isinstance(held, Unpriced):
            facts = {"model": request.model, "unit": held.unit_id, "service_tier": held.service_tier}
            return Denied("PRICE_UNKNOWN", f"The model has no price for {held.unit_id}.", facts, principal)
        too_large = refusal_of_cost(Rated(held, None), version.card)
        if too_large is not None:
            return too_large
        ask = Ask(
            principal.organization_id,
            request.operation_id,
            principal.project_id,
            principal.user_id,
            principal.service_account_id,
            principal.api_key_id,
            request.model,
            request.endpoint,
            input_tokens,
            output_tokens,
            request.hold_ttl_ms,
            quantities_text(request.quantities) if request.quantities else None,
            request.service_tier,
            TEST if principal.is_test else LIVE,
            request.items or None,
            label_text(request.labels) if request.labels else None,
            request.subscription_id,
        )
        # A repeat is recognised whatever the policy says by then, and as before there were policies.
        told = ask._replace(max_output_tokens=model_max) if request.needs_policy else ask
        amount = Decimal(0 if principal.is_test else held).scaleb(-9)
        return Pinned(
            ask,
            told.fingerprint(request.estimate),
            version.price_version_id,
            version.card.currency_code,
            policy.amount(amount, version.card.currency_code),
            now,
            request.fail_if_replayed,
            request.needs_policy,
        )

    async def _find_limits(
        self, requests: Sequence[Request], waiting: Mapping[int, Waiting]
    ) -> dict[int, Unavailable | Denied]:
        """Note the subscriptions that calls fall under, and the limits in force for them.

        Return why they are not known, or why the calls cannot fall under those they name, by the places of those calls.
        """
        if not waiting:
            return {}
        refused: dict[int, Unavailable | Denied] = {}
        calls = [
            (
                one.key[0],
                call_of(
                    requests[place],
                    one.pinned.ask,
                    self._provider(requests[place].model),
                    one.principal.subscription_id or requests[place].subscription_id,
                ),
            )
            for place, one in waiting.items()
        ]
        for (place, one), found in zip(waiting.items(), await self._limits.of(calls), strict=True):
            if isinstance(found, Unavailable):
                refused[place] = found
                continue
            denied = not_live(one, found)
            if denied is not None:
                refused[place] = denied
                continue
            pinned = one.pinned
            if found.subscription_id:
                ask = pinned.ask._replace(subscription_id=found.subscription_id)
                one.pinned = pinned = pinned._replace(ask=ask)
            if found.applied:
                one.applied = found.applied
                one.amounts = amounts_of_ask(
                    requests[place], pinned.ask, pinned.amount, pinned.currency_code, self._catalogue.units
                )
        return refused

    def _provider(self, model_id: str) -> str:
        model = self._catalogue.model(model_id)
        return "" if model is None else model.provider

    async def _run(
        self, database: Database, waiting: Sequence[Waiting], let_next_begin: Callable[[], None]
    ) -> list[Decision | Exception]:
        """Decide a batch. If an operation id occurs in it more than once, the others are repeats of the first: they are
        decided together, after it.
        """
        first: dict[store.Key, int] = {}
        for place, one in enumerate(waiting):
            first.setdefault(one.key, place)
        if len(first) == len(waiting):
            return await self._decide(database, waiting, let_next_begin)
        places = [*first.values()]
        others = sorted(set(range(len(waiting))).difference(places))
        decided = await self._decide(database, [waiting[place] for place in places], lambda: None)
        repeated = await self._decide(database, [waiting[place] for place in others], let_next_begin)
        decisions = dict(zip((*places, *others), (*decided, *repeated), strict=True))
        return [decisions[place] for place in range(len(waiting))]

    async def _decide(
        self, database: Database, waiting: Sequence[Waiting], let_next_begin: Callable[[], None]
    ) -> list[Decision | Exception]:
        known = await self._writer.write(database, waiting)
        let_next_begin()
        return await self._hold(database, waiting, known)

    async def _hold(
        self, database: Database, waiting: Sequence[Waiting], known: dict[store.Key, Stored]
    ) -> list[Decision | Exception]:
        """Place the holds. A repeat sends the first request's hold again, and billing returns that hold's state."""
        decisions: list[Decision | Exception | None] = []
        costly: list[tuple[int, Pinned, bool]] = []
        reserving: set[store.Key] = set()
        for place, one in enumerate(waiting):
            before = known.get(one.key)
            decision = _decided_without_hold(one, before)
            decisions.append(decision)
            if decision is None or isinstance(decision, Allowed):
                pinned = before.pinned if before else one.pinned
                if pinned.reservations or (before is not None and before.reserves):
                    reserving.add(one.key)
                if before is None or not before.reserves:
                    # What a repeat has reserved is read when it is settled.
                    self._engine.remember(authorization_of(pinned))
                if decision is None:
                    costly.append((place, pinned, before is not None))
        if costly:
            results = await self._billing.hold([_hold_request(pinned) for _, pinned, _ in costly])
            now = self._clock.now()
            for (place, pinned, replayed), result in zip(costly, results, strict=True):
                decisions[place] = _decision(waiting[place], pinned, replayed, result, now)
            await self._note(database, [pinned for _, pinned, _ in costly], results, reserving)
        return [decision for decision in decisions if decision is not None]

    async def _note(
        self,
        database: Database,
        asked: Sequence[Pinned],
        results: Sequence[Held | NotHeld | Refusal],
        reserving: Collection[store.Key],
    ) -> None:
        """Store which holds were declined, and which end later than the authorization says; usually there are none.

        What declined calls have reserved of limits is given back. `reserving` names those that have reserved something.
        The decisions stand without all that. If it fails, the list of authorizations tells the wrong state or end of
        these, and reservations are given back when the hold would have ended.
        """
        declined: list[store.Key] = []
        given_back: list[store.Key] = []
        later: dict[store.Key, datetime] = {}
        for pinned, result in zip(asked, results, strict=True):
            key = pinned.ask.organization_id, pinned.ask.operation_id
            if isinstance(result, NotHeld) and result.reason != OperationIdReused.reason:
                (given_back if key in reserving else declined).append(key)
            elif isinstance(result, Held) and result.expire_time > _expire_time(pinned) + HOLD_LATE:
                later[key] = result.expire_time
        if not declined and not given_back and not later:
            return
        try:
            if given_back:
                async with database.raw_transaction() as connection:
                    await give_back(connection, given_back)
                    await store.decline(connection, given_back)
            if declined or later:
                async with database.raw_connection() as connection:
                    if declined:
                        await store.decline(connection, declined)
                    if later:
                        await store.extend(connection, later)
        except Refusal as refusal:
            holds = len(declined) + len(given_back) + len(later)
            _log.warning("ends of holds not stored", reason=refusal.reason, holds=holds)


def _expire_time(pinned: Pinned) -> datetime:
    return pinned.create_time + timedelta(milliseconds=pinned.ask.hold_ttl_ms)


def _decided_without_hold(one: Waiting, before: Stored | None) -> Decision | Exception | None:
    """Return the decision where billing need not be asked, or None where an amount is to be held."""
    if one.said.refused is not None:
        return over_limit(one, one.said.refused)
    if before is None and not one.written:
        # Neither stored now nor found: it is the id of a lease.
        return OperationIdReused(operation_id=one.key[1], field="operation_id")
    refusal = refusal_of_repeat(before, one.pinned) if before is not None else None
    if refusal is not None:
        return refusal
    if before is not None and before.ended:
        return _ended(one)
    pinned = before.pinned if before else one.pinned
    if pinned.amount:
        return None
    return Allowed(pinned, one.principal, "", None, before is not None, limits=one.statuses)


def _ended(one: Waiting) -> Denied:
    message = "The operation was authorized before, and that authorization has ended."
    return Denied("AUTHORIZATION_ENDED", message, principal=one.principal, replayed=True, limits=one.statuses)


def _decision(
    one: Waiting, pinned: Pinned, replayed: bool, result: Held | NotHeld | Refusal, now: datetime
) -> Decision | Refusal:
    if isinstance(result, Refusal):
        return result
    if isinstance(result, Held):
        if not result.open or result.expire_time <= now:
            return _ended(one)
        return Allowed(pinned, one.principal, result.hold_id, result.expire_time, replayed, limits=one.statuses)
    if result.reason == OperationIdReused.reason:
        field = result.facts.get("field", "amount")
        return OperationIdReused(operation_id=pinned.ask.operation_id, field=field)
    limits = one.statuses if replayed else one.statuses_without
    denied = denied_hold(result, pinned.currency_code)
    return replace(denied, principal=one.principal, replayed=replayed, limits=limits)


def _hold_request(pinned: Pinned) -> HoldRequest:
    ask = pinned.ask
    return HoldRequest(
        ask.organization_id,
        ask.operation_id,
        ask.project_id,
        f"{pinned.amount:f}",
        pinned.currency_code,
        ask.hold_ttl_ms,
        ask.model,
        ask.user_id,
    )
