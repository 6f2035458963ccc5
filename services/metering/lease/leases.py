"""Acquires leases: reserves in the limits, then holds the money.

The lease is stored with what it reserves before the hold is placed. A repeat places the hold again under the same id,
and billing returns that hold: so a process that dies in between does no harm. When billing declines, what is reserved
is given back at once; when nobody repeats, at the end of the lease. The hold is placed with the whole ttl, also by a
repeat, since billing compares it. So it ends no earlier than the lease.
"""

from datetime import timedelta
from typing import Final

from libs.common.amount import format_amount
from libs.common.clock import Clock
from libs.common.errors import OperationIdReused, Unavailable
from services.metering.admission.denials import denied_hold
from services.metering.admission.domain import Denied
from services.metering.admission.limits import message_of
from services.metering.clients.billing import BillingClient, Held, HoldRequest
from services.metering.lease.domain import Acquired, held_amount, without
from services.metering.quota.allocation_domain import Allocation, Answer, Ask
from services.metering.quota.allocations import Allocations

_MILLISECOND: Final = timedelta(milliseconds=1)


class Leases:
    """Acquires leases."""

    def __init__(self, allocations: Allocations, billing: BillingClient, clock: Clock) -> None:
        self._allocations = allocations
        self._billing = billing
        self._clock = clock

    async def acquire(self, ask: Ask) -> Acquired:
        """Take a slice of limits and money, or say why not.

        Raises:
            OrganizationNotFound: identity does not know the organization.
            OperationIdReused: the id was used with other fields, or for something else.
            CounterFull: a limit has counted as much as can be counted.
            Unavailable: the limits cannot be read, or billing cannot be reached. A repeat goes on from there.
            Overloaded: too many requests wait already.
        """
        answer = await self._allocations.allocate(ask)
        lease = answer.allocation
        if lease is None:
            return _refused(answer)
        if self._is_over(lease) and not lease.declined:
            return _ended(answer)
        amount = held_amount(lease)
        if not amount:
            return Acquired(lease, answer.limits, replayed=answer.replayed)
        (result,) = await self._billing.hold([_hold_request(ask, lease)])
        if isinstance(result, Unavailable):
            raise result
        if isinstance(result, Held):
            # The answer may have taken long.
            if not result.open or self._is_over(lease):
                return _ended(answer)
            return Acquired(lease, answer.limits, replayed=answer.replayed)
        await self._allocations.decline(ask.organization_id, ask.operation_id)
        if result.reason == OperationIdReused.reason:
            raise OperationIdReused(operation_id=ask.operation_id, field="lease_id")
        limits = answer.limits if lease.declined else without(lease, answer.limits)
        denied = denied_hold(result, lease.currency_code)
        return Acquired(None, limits, denied, replayed=answer.replayed)

    def _is_over(self, lease: Allocation) -> bool:
        return lease.released or (lease.lease_end_time is not None and lease.lease_end_time <= self._clock.now())


def _refused(answer: Answer) -> Acquired:
    assert answer.refused is not None, "what is not stored was refused"
    denied = Denied("LIMIT_EXCEEDED", message_of(answer.refused), refused=answer.refused)
    return Acquired(None, answer.limits, denied, answer.refused)


def _ended(answer: Answer) -> Acquired:
    message = "The lease was acquired before, and it has ended. A new lease needs a new lease_id."
    return Acquired(None, answer.limits, Denied("AUTHORIZATION_ENDED", message), replayed=True)


def _hold_request(ask: Ask, lease: Allocation) -> HoldRequest:
    call = ask.call
    return HoldRequest(
        ask.organization_id,
        ask.operation_id,
        call.project_id or None,
        format_amount(held_amount(lease)),
        lease.currency_code,
        -(-ask.lease // _MILLISECOND),
        call.model,
        call.user_id or None,
        is_lease=True,
    )
