"""What becomes of authorizations: they are cancelled, extended and listed."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from libs.common.clock import Clock
from libs.common.errors import FieldViolation, InvalidArgument, NotFound
from libs.common.shards import Shards
from services.metering.admission import store
from services.metering.admission.domain import Allowance, More, State, Stored, enlarged
from services.metering.clients.billing import BillingClient, HoldOver, NotHeld
from services.metering.errors import (
    AlreadySettled,
    AuthorizationNotHeld,
    AuthorizationNotOpen,
    InsufficientBalance,
    PriceUnknown,
)
from services.metering.model.catalogue import Catalogue
from services.metering.model.rates import Unpriced
from services.metering.quota.counters import give_back

EXTENSION_MAX: Final = timedelta(days=1)
_NO_LONGER_MS: Final = 1
"""A time to live that lengthens no hold."""


class Authorizations:
    """Cancels, extends and lists authorizations."""

    def __init__(self, shards: Shards, catalogue: Catalogue, billing: BillingClient, clock: Clock) -> None:
        self._shards = shards
        self._catalogue = catalogue
        self._billing = billing
        self._clock = clock

    def now(self) -> datetime:
        """Return the moment by which authorizations lapse."""
        return self._clock.now()

    async def cancel(self, organization_id: str, operation_id: str) -> tuple[str, Decimal, bool]:
        """Cancel an authorization; return the currency, the amount that is released, and whether this is a repeat.

        What it has reserved of limits is given back, once.

        Raises:
            NotFound: the operation was never authorized.
            AlreadySettled: its usage is recorded, or parts of it are settled.
            Unavailable: billing cannot be reached.
        """
        key, database = (organization_id, operation_id), self._shards.of(organization_id)
        async with database.raw_connection() as connection:
            found = await store.find(connection, [key])
            if key not in found:
                raise NotFound(resource_type="authorization", resource_name=operation_id)
        stored = found[key]
        if stored.settled or stored.captured is not None:
            raise AlreadySettled(operation_id=operation_id)
        released = Decimal(0)
        if stored.pinned.amount:
            released = Decimal((await self._billing.release(organization_id, operation_id)).amount or 0)
        if stored.reserves:
            async with database.raw_transaction() as connection:
                await give_back(connection, [key])
                await store.cancel(connection, key)
        else:
            async with database.raw_connection() as connection:
                await store.cancel(connection, key)
        return stored.pinned.currency_code, Decimal(0) if stored.cancelled else released, stored.cancelled

    async def extend(
        self, organization_id: str, operation_id: str, expire_time: datetime | None, more: More | None
    ) -> Stored:
        """Hold the money of a call at least until then, and enough for what it may use as a whole.

        An earlier end than the present one changes nothing, and neither does a smaller amount. Billing is asked first:
        if this process dies before the change is stored, a repeat stores it. Nothing more is reserved of limits.

        Raises:
            InvalidArgument: the time is not in the future, or more than a day from now.
            NotFound: the operation was never authorized.
            AuthorizationNotOpen: nothing is held for it any more, or what it had reserved of limits was given back.
            AuthorizationNotHeld: more is to be held, and nothing is.
            InsufficientBalance: the account has not enough; nothing is changed.
            PriceUnknown: a unit has no rate.
            Unavailable: billing cannot be reached.
        """
        now = self._clock.now()
        if expire_time is not None and not now < expire_time <= now + EXTENSION_MAX:
            raise InvalidArgument([FieldViolation("expire_time", "must be in the future, at most a day from now")])
        key = organization_id, operation_id
        stored = await self._find(key)
        is_held = stored.pinned.amount > 0
        state = stored.state(now)
        if stored.settled or state not in (State.OPEN, State.LAPSED) or (state is State.LAPSED and not is_held):
            raise AuthorizationNotOpen(operation_id=operation_id, state=state)
        if stored.gave_back:
            raise AuthorizationNotOpen(operation_id=operation_id, state=State.LAPSED)
        larger = await self._larger(stored, more)
        if is_held:
            await self._extend_hold(stored, None if expire_time is None else expire_time - now, larger)
        elif larger is not None:
            raise AuthorizationNotHeld(operation_id=operation_id)
        later = expire_time if expire_time is not None and expire_time > stored.expire_time else None
        if larger is not None or later is not None:
            async with self._shards.of(organization_id).raw_connection() as connection:
                if larger is not None:
                    await store.enlarge(connection, key, larger)
                if later is not None and await store.extend(connection, {key: later}):
                    raise AuthorizationNotOpen(operation_id=operation_id, state=State.LAPSED)
        return stored._replace(expire_time=later or stored.expire_time, allowance=larger or stored.allowance)

    async def _larger(self, stored: Stored, more: More | None) -> Allowance | None:
        """Return what a call may use as a whole, where that costs more than what is held for it."""
        if more is None:
            return None
        pinned = stored.pinned
        await self._catalogue.refresh()
        version = self._catalogue.version(pinned.price_version_id)
        if version is None:
            await self._catalogue.refresh_for_unknown()
            version = self._catalogue.version(pinned.price_version_id)
        ask = pinned.ask
        if version is None:
            raise PriceUnknown(model_id=ask.model, occur_time=pinned.create_time)
        asked = enlarged(stored.allowance, more, version, ask.service_tier, self._catalogue.units)
        if isinstance(asked, Unpriced):
            raise PriceUnknown(
                model_id=ask.model,
                unit=asked.unit_id,
                service_tier=asked.service_tier,
                occur_time=pinned.create_time,
            )
        return asked if asked.amount > stored.allowance.amount else None

    async def _extend_hold(self, stored: Stored, time_left: timedelta | None, larger: Allowance | None) -> None:
        pinned = stored.pinned
        ttl_ms = _NO_LONGER_MS if time_left is None else -(-time_left // timedelta(milliseconds=1))
        amount = None if larger is None else (larger.amount, pinned.currency_code)
        held = await self._billing.extend(pinned.ask.organization_id, pinned.ask.operation_id, ttl_ms, amount)
        if isinstance(held, HoldOver):
            raise AuthorizationNotOpen(operation_id=pinned.ask.operation_id, state=State.LAPSED)
        if isinstance(held, NotHeld):
            raise InsufficientBalance(**held.facts)

    async def list_authorizations(
        self,
        *,
        organization_id: str,
        start_time: datetime,
        end_time: datetime,
        after: store.Place | None,
        filters: store.Filters,
        limit: int,
    ) -> tuple[Sequence[Stored], store.Place | None]:
        """Return a page of authorizations, the latest first, and where the next begins."""
        async with self._shards.of(organization_id).raw_connection() as connection:
            return await store.list_authorizations(
                connection,
                organization_id=organization_id,
                start_time=start_time,
                before=after or (end_time, ""),
                filters=filters,
                now=self._clock.now(),
                limit=limit,
            )

    async def _find(self, key: store.Key) -> Stored:
        async with self._shards.of(key[0]).raw_connection() as connection:
            found = await store.find(connection, [key])
        if key not in found:
            raise NotFound(resource_type="authorization", resource_name=key[1])
        return found[key]
