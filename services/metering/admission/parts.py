"""Settles calls in parts: captures what is known of a call so far, and keeps the rest of its hold.

A part is one transaction, which stores it with its charge; then billing is asked. The counts of a part are those since
the call began, so that a part that is lost or repeated does no harm.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

import structlog

from libs.common.amount import format_amount
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Conflict, InvalidArgument, NotFound
from libs.common.ids import new_id
from libs.common.shards import Shards
from services.metering.admission import store
from services.metering.admission.domain import Stored, authorization_of, refusal_of_part
from services.metering.clients.billing import CAPTURE, Charge
from services.metering.errors import AuthorizationLapsed
from services.metering.model.catalogue import Catalogue
from services.metering.usage import part_store
from services.metering.usage import store as usage_store
from services.metering.usage.charging import Charging
from services.metering.usage.domain import (
    PENDING,
    PENDING_PRICE,
    REFUSED,
    SETTLED,
    Accepted,
    Authorization,
    Cost,
    Outcome,
    Recorded,
    Work,
    charged,
    completed,
    dimensions_of,
    lapsed,
    time_violation,
)
from services.metering.usage.named_subscriptions import NamedSubscriptions
from services.metering.usage.part_domain import InParts, Part, amount_of_part, contradiction, used_by
from services.metering.usage.part_store import Repeated
from services.metering.usage.proposals import Proposals
from services.metering.usage.store import Key
from services.metering.usage.tries import tries

_log = structlog.get_logger("parts")

RUNNING_MAX: Final = 4
"""How many parts of a shard are stored at once in a process; the others wait, and leave connections to other calls."""


class PartRequest(NamedTuple):
    """What a caller reports of a call that goes on, and the request as it is recorded if no last one comes."""

    work: Work
    request: bytes


class Parts:
    """Settles parts of calls."""

    def __init__(
        self,
        shards: Shards,
        catalogue: Catalogue,
        charging: Charging,
        named_subscriptions: NamedSubscriptions,
        clock: Clock,
        *,
        relay_after: timedelta,
    ) -> None:
        self._named_subscriptions = named_subscriptions
        self._shards = shards
        self._catalogue = catalogue
        self._proposals = Proposals(catalogue)
        self._charging = charging
        self._clock = clock
        self._relay_after = relay_after
        self._turns = {database: asyncio.Semaphore(RUNNING_MAX) for database in shards}

    async def settle(self, requests: Sequence[PartRequest]) -> list[Outcome]:
        """Settle parts, those of one call one after the other, and return the outcome of each, in their order.

        The outcome of a part is an exception if it is not settled:
            NotFound: the call was never authorized.
            AlreadySettled: the usage of the call is recorded.
            AuthorizationLapsed: it was recorded because no settlement had come.
            AuthorizationNotOpen: the call was cancelled, or its hold was declined.
            SubscriptionNotFound, SubscriptionMismatch: it names a subscription that it cannot fall under.
            BelowEarlierPart: an earlier part of the call had more, or another model or service tier.
            TooManyParts: the call has as many parts as it can have.
            InvalidArgument: the time is outside of the window in which usage is taken.
            Conflict: other parts of the call were stored meanwhile, again and again.
        """
        outcomes: dict[int, Outcome] = {}
        calls: dict[Key, list[int]] = {}
        for place, one in enumerate(requests):
            calls.setdefault((one.work.organization_id, one.work.operation_id), []).append(place)

        async def settle_call(places: Sequence[int]) -> None:
            for place in places:
                outcomes[place] = await self._outcome(requests[place])

        await asyncio.gather(*map(settle_call, calls.values()))
        return [outcomes[place] for place in range(len(requests))]

    async def _outcome(self, request: PartRequest) -> Outcome:
        try:
            return await self._settle(request)
        except Exception as error:  # noqa: BLE001 -- an error of one part is the outcome of that part.
            return error

    async def _settle(self, request: PartRequest) -> Accepted:
        database = self._shards.of(request.work.organization_id)
        await self._catalogue.refresh()
        async for _ in tries():
            async with self._turns[database]:
                settled = await self._try(database, request)
            if isinstance(settled, Accepted):
                return settled
            if settled is not None:
                return await self._charge(database, *settled)
        raise Conflict

    async def _try(self, database: Database, request: PartRequest) -> Accepted | tuple[Recorded, Part] | None:
        """Store a part, or answer a repeat; None where another part was stored meanwhile."""
        work = request.work
        key = work.organization_id, work.operation_id
        async with database.raw_connection() as connection:
            found = (await store.find(connection, [key])).get(key)
            known = (await part_store.find(connection, [key])).get(key)
            # Last, so that a part is found here that was stored since the last one was read.
            repeated = await part_store.find_repeated(connection, work)
        if found is None:
            raise NotFound(resource_type="authorization", resource_name=work.operation_id)
        authorization = authorization_of(found.pinned)
        work = completed(work, authorization)
        if repeated is not None:
            return await self._answer_repeat(work, repeated)
        if found.recorded_when_lapsed:
            raise await self._lapsed(database, key)
        last = None if known is None else known.last
        self._refuse(work, found, last)
        for refusal in (await self._named_subscriptions.refusals([(request.work, authorization)])).values():
            raise refusal
        if last is not None and not await self._proposals.knows_price(last):
            return None
        await self._proposals.know_prices([(work, authorization)])
        part, cost = self._propose(work, authorization, last)
        if await self._write(database, request._replace(work=work), part, known, found.expire_time):
            return self._recorded(work, part, cost), part
        return None

    async def _lapsed(self, database: Database, key: Key) -> AuthorizationLapsed:
        async with database.raw_connection() as connection:
            recorded, _ = (await usage_store.find(connection, [key]))[key]
        return lapsed(recorded)

    def _refuse(self, work: Work, found: Stored, last: Part | None) -> None:
        refusal = refusal_of_part(found, last)
        if refusal is not None:
            raise refusal
        violation = time_violation(work.occur_time, self._clock.now(), backfilled=False)
        if violation is not None:
            raise InvalidArgument([violation])

    def _propose(self, work: Work, authorization: Authorization, last: Part | None) -> tuple[Part, Cost | None]:
        """Return a part as it is to be stored, with the cost of the call if it ended now.

        Raises:
            BelowEarlierPart: it contradicts the last part.
        """
        version = self._proposals.version(work, authorization, last)
        cost = self._proposals.cost(work, version, is_held=False)
        contradicts = contradiction(last, work, cost) if last is not None else None
        if contradicts is not None:
            raise contradicts
        amount = amount_of_part(work, version, last, self._catalogue.units)
        price_version_id, currency_code = (last.price_version_id, last.currency_code) if last else (None, None)
        if cost is not None:
            price_version_id, currency_code = cost.price_version_id, cost.currency_code
        part = Part(
            part=last.part + 1 if last is not None else 1,
            model=work.model,
            service_tier=work.service_tier or "",
            quantities=used_by(work),
            stated_amount=Decimal(work.stated.amount) if work.stated is not None else None,
            price_version_id=price_version_id,
            part_id=new_id() if amount else None,
            amount=amount,
            captured_amount=amount + (last.captured_amount if last is not None else 0),
            currency_code=currency_code,
            occur_time=work.occur_time,
            create_time=self._clock.now(),
        )
        return part, cost

    async def _write(
        self, database: Database, request: PartRequest, part: Part, known: InParts | None, expire_time: datetime
    ) -> bool:
        """Store a part; tell whether it was the next one still."""
        try:
            async with database.raw_connection() as connection:
                return await part_store.add(
                    connection,
                    request.work,
                    part,
                    request=request.request,
                    usage_id=new_id(),
                    seen_usage_id=None if known is None else known.usage_id,
                    due_time=part.create_time + self._relay_after,
                    expire_time=expire_time,
                )
        except Conflict:
            return False

    async def _charge(self, database: Database, recorded: Recorded, part: Part) -> Accepted:
        """Ask billing for a part that is stored. If that fails, the relay does it."""
        work = recorded.work
        if part.part_id is None or part.currency_code is None:
            return Accepted(recorded, replayed=False)
        charge = Charge(
            work.organization_id,
            part.part_id,
            CAPTURE,
            format_amount(part.amount),
            part.currency_code,
            work.project_id,
            work.model,
            work.operation_id,
            work.user_id,
        )
        try:
            (result,) = await self._charging.charge(database, [charge])
        except Exception as error:  # noqa: BLE001 -- the part is durable: it is acknowledged, and the relay charges it.
            _log.error("the charge of a part failed and is left to the relay", exc_info=error)
            return Accepted(recorded, replayed=False)
        return charged(recorded, result)

    async def _answer_repeat(self, work: Work, repeated: Repeated) -> Accepted | None:
        """Return the answer to a part that was stored before; None while its price is not known here."""
        part = repeated.part
        if not await self._proposals.knows_price(part):
            return None
        version = None if part.price_version_id is None else self._catalogue.version(part.price_version_id)
        cost = self._proposals.cost(work, version, is_held=False)
        recorded = self._recorded(work._replace(occur_time=part.occur_time), part, cost)
        if cost is not None:
            recorded = recorded._replace(settlement=repeated.charge_state or SETTLED)
        reason = repeated.refusal_reason if repeated.charge_state == REFUSED else ""
        return Accepted(recorded._replace(refusal_reason=reason or ""), replayed=True)

    def _recorded(self, work: Work, part: Part, cost: Cost | None) -> Recorded:
        """Return a part as usage that is not recorded yet."""
        model = self._catalogue.model(work.model)
        if cost is None:
            settlement = PENDING_PRICE
        else:
            cost = cost._replace(charge_kind=None)
            settlement = PENDING if part.part_id is not None else SETTLED
        dimensions = dimensions_of(work, model.provider if model is not None else "")
        return Recorded(work, "", cost, part.create_time, settlement, "", dimensions, part.captured)
