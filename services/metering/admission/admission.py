"""Decides whether a call may begin, keeps what was decided, and gives up what is not needed.

The price is pinned before the hold is placed: whatever happens in between, the work is settled with it. Authorizations
that arrive together share one statement and one call to billing, as usage does.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.deadline import leave_deadline
from libs.common.errors import Conflict, NotFound, OperationIdReused, Overloaded, Refusal
from services.metering.admission import store
from services.metering.admission.domain import (
    OUTPUT_TOKENS_DEFAULT,
    Allowed,
    Ask,
    Decision,
    Denied,
    Pinned,
    Stored,
    held_amount,
    refusal_of_repeat,
)
from services.metering.clients.billing import BATCH_MAX, BillingClient, Held, HoldRequest, NotHeld
from services.metering.clients.identity import VALID, IdentityClient, KeyPrincipal
from services.metering.clients.organizations import Organizations
from services.metering.errors import AlreadySettled, OrganizationNotFound
from services.metering.model.catalogue import Catalogue
from services.metering.model.domain import Tokens, input_tokens_of, output_tokens_of
from services.metering.usage.domain import Authorization
from services.metering.usage.engine import UsageEngine
from services.metering.usage.pace import Pace

_TRIES_MAX: Final = 4
_BATCHES_IN_FLIGHT_MAX: Final = 16
_FACTS: Final = ("posted", "held", "available", "needed", "currency_code", "earliest_release_time")
_KEY_MESSAGES: Final = {
    "NOT_FOUND": "There is no such key.",
    "DISABLED": "The key is disabled.",
    "REVOKED": "The key is revoked.",
    "EXPIRED": "The key has expired.",
    "OWNER_INACTIVE": "The key's owner is not active.",
    "INSUFFICIENT_SCOPE": "The key lacks a required scope.",
    "MODEL_NOT_ALLOWED": "The key may not be used for this model.",
    "ADDRESS_NOT_ALLOWED": "The key may not be used from this address.",
}
# What billing says to a hold, and what that means to the one who asked.
_HOLD_REASONS: Final = ("INSUFFICIENT_BALANCE", "CURRENCY_MISMATCH", "ACCOUNT_CLOSED")


@dataclass(frozen=True, slots=True)
class Request:
    """A call that wants to begin, with either a secret key or a principal."""

    operation_id: str
    secret: str | None
    principal: KeyPrincipal | None
    model: str
    input_tokens: int
    max_output_tokens: int | None
    estimate: Tokens | None
    endpoint: str | None
    required_scopes: Sequence[str]
    min_revision: int
    hold_ttl_ms: int
    client_address: str
    fail_if_replayed: bool


@dataclass(slots=True)
class _Waiting:
    pinned: Pinned
    principal: KeyPrincipal
    answer: "asyncio.Future[Decision]"
    context: contextvars.Context


class Admission:
    """Lets calls through."""

    def __init__(
        self,
        database: Database,
        catalogue: Catalogue,
        identity: IdentityClient,
        organizations: Organizations,
        billing: BillingClient,
        engine: UsageEngine,
        clock: Clock,
        *,
        queue_max: int,
    ) -> None:
        self._database = database
        self._catalogue = catalogue
        self._identity = identity
        self._organizations = organizations
        self._billing = billing
        self._engine = engine
        self._clock = clock
        self._queue_max = queue_max
        self._queue: deque[_Waiting] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._in_flight = asyncio.Semaphore(_BATCHES_IN_FLIGHT_MAX)
        self._pace = Pace()

    async def authorize(self, request: Request) -> Decision:
        """Decide whether the call may begin.

        Raises:
            OperationIdReused: the operation id was authorized with other fields.
            OperationIdInUse: the operation id was authorized before, and the request says to refuse that.
            OrganizationNotFound: identity knows no organization of the principal's id.
            TooManyUnknownKeys: the client's address has presented more unknown keys than are looked up.
            Unavailable: identity or billing cannot be reached.
            Overloaded: too many calls wait already.
        """
        principal = request.principal
        if request.secret is not None:
            answer = await self._identity.verify(
                request.secret,
                model=request.model,
                required_scopes=request.required_scopes,
                min_revision=request.min_revision,
                client_address=request.client_address,
            )
            if answer.code != VALID:
                message = _KEY_MESSAGES.get(answer.code, "The key may not be used.")
                return Denied(f"KEY_{answer.code}", message, principal=answer.principal)
            principal = answer.principal
        if principal is None:
            raise ValueError("A caller has a key or a principal.")
        if request.secret is None and await self._organizations.find_unknown([principal.organization_id]):
            raise OrganizationNotFound(organization_id=principal.organization_id)
        pinned = await self._pin(request, principal)
        if isinstance(pinned, Denied):
            return pinned
        return await self._decide(pinned, principal)

    async def cancel(self, organization_id: str, operation_id: str) -> tuple[str, Decimal, bool]:
        """Give up an authorization; return the currency, what was held until now, and whether this is a repeat.

        Raises:
            NotFound: the operation was never authorized.
            AlreadySettled: its usage is recorded.
            Unavailable: billing cannot be reached.
        """
        key = (organization_id, operation_id)
        async with self._database.raw_connection() as connection:
            found = await store.find(connection, [key])
            if key not in found:
                raise NotFound(resource_type="authorization", resource_name=operation_id)
        stored = found[key]
        if stored.settled:
            raise AlreadySettled(operation_id=operation_id)
        released = Decimal(0)
        if stored.pinned.amount:
            released = Decimal((await self._billing.release(organization_id, operation_id)).amount or 0)
        async with self._database.raw_connection() as connection:
            await store.cancel(connection, key)
        return stored.pinned.currency_code, Decimal(0) if stored.cancelled else released, stored.cancelled

    async def close(self) -> None:
        """Return when no call waits for its decision any more."""
        while self._writer is not None or self._pace.under_way:
            await asyncio.wait([task for task in (self._writer, *self._pace.under_way) if task is not None])

    async def _pin(self, request: Request, principal: KeyPrincipal) -> Pinned | Denied:
        await self._catalogue.refresh()
        now = self._clock.now()
        model = self._catalogue.model(request.model)
        version = self._catalogue.price(request.model, principal.organization_id, now)
        if model is None or version is None:
            await self._catalogue.refresh_for_unknown()
            model = self._catalogue.model(request.model)
            version = self._catalogue.price(request.model, principal.organization_id, now)
        if model is None:
            return Denied("MODEL_UNKNOWN", "The model is not in the catalogue.", {"model": request.model}, principal)
        if not model.active:
            return Denied("MODEL_INACTIVE", "The model is switched off.", {"model": request.model}, principal)
        if version is None:
            return Denied("PRICE_UNKNOWN", "The model has no price in force.", {"model": request.model}, principal)
        input_tokens, output_tokens = request.input_tokens, request.max_output_tokens
        if request.estimate is not None:
            input_tokens, output_tokens = input_tokens_of(request.estimate), output_tokens_of(request.estimate)
        elif output_tokens is None:
            output_tokens = model.max_output_tokens or OUTPUT_TOKENS_DEFAULT
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
        )
        return Pinned(
            ask,
            ask.fingerprint(request.estimate),
            version.price_version_id,
            version.prices.currency_code,
            held_amount(version, input_tokens, output_tokens, request.estimate),
            now,
            request.fail_if_replayed,
        )

    async def _decide(self, pinned: Pinned, principal: KeyPrincipal) -> Decision:
        if len(self._queue) >= self._queue_max:
            raise Overloaded
        answer: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(pinned, principal, answer, contextvars.copy_context()))
        if self._writer is None:
            self._writer = asyncio.create_task(self._decide_all(), name="authorization writer")
        else:
            self._pace.note_waiting(len(self._queue))
        return await answer

    async def _decide_all(self) -> None:
        leave_deadline()
        try:
            while self._queue:
                await self._in_flight.acquire()
                await asyncio.sleep(0)  # Calls that are being read at this moment join the batch.
                waiting = self._take()
                task = waiting[0].context.run(asyncio.create_task, self._process(waiting, written := asyncio.Event()))
                self._pace.start(task)
                await written.wait()
                await self._pace.let_some_gather(len(self._queue))
        finally:
            self._writer = None

    def _take(self) -> list[_Waiting]:
        """Take what waits, up to what fits a call to billing, each operation once."""
        taken: dict[store.Key, _Waiting] = {}
        while self._queue and len(taken) < BATCH_MAX:
            ask = self._queue[0].pinned.ask
            if (ask.organization_id, ask.operation_id) in taken:
                break
            taken[ask.organization_id, ask.operation_id] = self._queue.popleft()
        return list(taken.values())

    async def _process(self, waiting: list[_Waiting], written: asyncio.Event) -> None:
        leave_deadline()
        try:
            try:
                known = await self._write(waiting)
            finally:
                written.set()
            await self._hold(waiting, known)
        except BaseException as error:
            for one in waiting:
                if not one.answer.done():
                    one.answer.set_exception(error if isinstance(error, Exception) else Overloaded())
            if not isinstance(error, Exception):
                raise
        finally:
            self._in_flight.release()

    async def _write(self, waiting: Sequence[_Waiting]) -> dict[store.Key, Stored]:
        """Store the authorizations; return what the same operation ids were used for before."""
        for attempt in range(1, _TRIES_MAX + 1):
            try:
                async with self._database.raw_connection() as connection:
                    repeated = await store.add(connection, [one.pinned for one in waiting])
                    # Usage can be recorded without an authorization: who wants no repeat wants to know that too.
                    exclusive = [_key(one) for one in waiting if one.pinned.fail_if_replayed]
                    keys = {*repeated, *exclusive}
                    found = await store.find(connection, list(keys)) if keys else {}
                    return {key: stored for key, stored in found.items() if key in repeated or stored.settled}
            except Conflict:
                if attempt == _TRIES_MAX:
                    raise
        raise Conflict

    async def _hold(self, waiting: Sequence[_Waiting], known: dict[store.Key, Stored]) -> None:
        """Place the holds. A repeat asks for the one that was asked for before, and billing tells how that went."""
        costly: list[tuple[_Waiting, Pinned, bool]] = []
        for one in waiting:
            ask = one.pinned.ask
            before = known.get((ask.organization_id, ask.operation_id))
            refusal = refusal_of_repeat(before, one.pinned) if before is not None else None
            if refusal is not None:
                _refuse(one, refusal)
                continue
            if before is not None and before.ended:
                _answer(one, _ended(one))
                continue
            pinned, replayed = before.pinned if before else one.pinned, before is not None
            self._engine.remember(_authorization(pinned))
            if pinned.amount:
                costly.append((one, pinned, replayed))
            else:
                _answer(one, Allowed(pinned, one.principal, "", None, replayed))
        if not costly:
            return
        results = await self._billing.hold([_hold_request(pinned) for _, pinned, _ in costly])
        now = self._clock.now()
        for (one, pinned, replayed), result in zip(costly, results, strict=True):
            decision = _decision(one, pinned, replayed, result, now)
            if isinstance(decision, Refusal):
                _refuse(one, decision)
            else:
                _answer(one, decision)


def _key(one: _Waiting) -> store.Key:
    return one.pinned.ask.organization_id, one.pinned.ask.operation_id


def _answer(one: _Waiting, decision: Decision) -> None:
    if not one.answer.done():
        one.answer.set_result(decision)


def _refuse(one: _Waiting, refusal: Refusal) -> None:
    if not one.answer.done():
        one.answer.set_exception(refusal)


def _ended(one: _Waiting) -> Denied:
    message = "The operation was authorized before, and that authorization has ended."
    return Denied("AUTHORIZATION_ENDED", message, principal=one.principal, replayed=True)


def _decision(
    one: _Waiting, pinned: Pinned, replayed: bool, result: Held | NotHeld, now: datetime
) -> Decision | Refusal:
    if isinstance(result, Held):
        if not result.open or result.expire_time <= now:
            return _ended(one)
        return Allowed(pinned, one.principal, result.hold_id, result.expire_time, replayed)
    if result.reason == OperationIdReused.reason:
        field = result.facts.get("field", "amount")
        return OperationIdReused(operation_id=pinned.ask.operation_id, field=field)
    reason = result.reason if result.reason in _HOLD_REASONS else "ACCOUNT_CLOSED"
    facts = {name: result.facts[name] for name in _FACTS if name in result.facts}
    facts.setdefault("currency_code", pinned.currency_code)
    return Denied(reason, result.message, facts, one.principal, replayed)


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
    )


def _authorization(pinned: Pinned) -> Authorization:
    ask = pinned.ask
    return Authorization(
        ask.organization_id,
        ask.operation_id,
        ask.project_id,
        ask.user_id,
        ask.api_key_id,
        ask.model,
        ask.endpoint,
        pinned.price_version_id,
        pinned.currency_code,
        pinned.amount,
    )
