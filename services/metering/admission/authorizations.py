"""What becomes of authorizations: they are cancelled, extended and listed."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from libs.common.clock import Clock
from libs.common.errors import FieldViolation, InvalidArgument, NotFound
from libs.common.shards import Shards
from services.metering.admission import store
from services.metering.admission.domain import State, Stored
from services.metering.clients.billing import BillingClient, HoldOver
from services.metering.errors import AlreadySettled, AuthorizationNotOpen

EXTENSION_MAX: Final = timedelta(days=1)


class Authorizations:
    """Cancels, extends and lists authorizations."""

    def __init__(self, shards: Shards, billing: BillingClient, clock: Clock) -> None:
        self._shards = shards
        self._billing = billing
        self._clock = clock

    def now(self) -> datetime:
        """Return the moment by which authorizations lapse."""
        return self._clock.now()

    async def cancel(self, organization_id: str, operation_id: str) -> tuple[str, Decimal, bool]:
        """Cancel an authorization; return the currency, the amount that is released, and whether this is a repeat.

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
        async with database.raw_connection() as connection:
            await store.cancel(connection, key)
        return stored.pinned.currency_code, Decimal(0) if stored.cancelled else released, stored.cancelled

    async def extend(self, organization_id: str, operation_id: str, expire_time: datetime) -> Stored:
        """Hold the money of a call at least until then; an earlier end than the present one changes nothing.

        Billing is asked first: if this process dies before the end is stored, a repeat stores it.

        Raises:
            InvalidArgument: the time is not in the future, or more than a day from now.
            NotFound: the operation was never authorized.
            AuthorizationNotOpen: nothing is held for it.
            Unavailable: billing cannot be reached.
        """
        now = self._clock.now()
        if not now < expire_time <= now + EXTENSION_MAX:
            raise InvalidArgument([FieldViolation("expire_time", "must be in the future, at most a day from now")])
        key = organization_id, operation_id
        stored = await self._find(key)
        state = stored.state(now)
        if state not in (State.OPEN, State.LAPSED):
            raise AuthorizationNotOpen(operation_id=operation_id, state=state)
        if stored.pinned.amount:
            ttl_ms = -(-(expire_time - now) // timedelta(milliseconds=1))
            held = await self._billing.extend(organization_id, operation_id, ttl_ms)
            if isinstance(held, HoldOver):
                raise AuthorizationNotOpen(operation_id=operation_id, state=State.LAPSED)
        elif state is State.LAPSED:
            raise AuthorizationNotOpen(operation_id=operation_id, state=state)
        if expire_time > stored.expire_time:
            async with self._shards.of(organization_id).raw_connection() as connection:
                await store.extend(connection, {key: expire_time})
        return stored._replace(expire_time=max(expire_time, stored.expire_time))

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
