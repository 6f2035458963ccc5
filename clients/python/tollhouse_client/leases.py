"""Calls that are decided within leases: no RPC before the work, and one settlement for many calls after it."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Final, TypeAlias

import grpc

from tollhouse.metering.v1 import admission_pb2, lease_pb2, usage_pb2
from tollhouse.metering.v1.lease_holder import LeaseHolder, Taken
from tollhouse_client.call import AuthorizedCall, Quantities, Rpcs
from tollhouse_client.errors import FailedPrecondition, TollhouseError, UsageMissing, error_of, error_of_call
from tollhouse_client.usage import Kind, UsageObject, Used

OnRefused: TypeAlias = Callable[[usage_pb2.RecordUsageRequest, TollhouseError], None]

_log: Final = logging.getLogger("tollhouse_client")
_PAUSE_S: Final = 0.5
_LOST_RIGHTS: Final = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
"""What waiting for some seconds does not help."""


class Lease:
    """Leases of one kind, of which there is always a present one: `client.meter.lease(request)`."""

    def __init__(self, holder: LeaseHolder, request: lease_pb2.AcquireLeaseRequest) -> None:
        self._holder = holder
        self.request = request

    @property
    def denied(self) -> lease_pb2.AcquireLeaseResponse | None:
        """Why the last lease was refused; None while leases are acquired."""
        return self._holder.denied

    def take(self, most: Quantities) -> Taken | None:
        """Take what a call may use at most; None where no lease has it.

        Raises:
            ValueError: nothing is to be taken, or a quantity is below zero.
        """
        if not most:
            raise ValueError("With a lease say in `most` what the call may use of each of its metrics.")
        return self._holder.take(most)

    def done(self, taken: Taken, usage: usage_pb2.RecordUsageRequest | None, unused: Quantities) -> None:
        """End a call, and give back what it has not used."""
        self._holder.done(taken, usage, unused)

    async def flush(self) -> None:
        """Settle what is reported until now.

        Raises:
            TollhouseError: metering cannot be reached. What was not settled is kept.
        """
        try:
            await self._holder.flush()
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from None


class LeasedCall(AuthorizedCall):
    """A call that a lease has allowed. Its usage is settled with that of others, so it has no `settlement`."""

    def __init__(self, rpcs: Rpcs, request: admission_pb2.AuthorizeRequest, lease: Lease, taken: Taken) -> None:
        allowed = admission_pb2.AuthorizeResponse(decision=admission_pb2.DECISION_ALLOWED, principal=request.principal)
        super().__init__(rpcs, request, allowed)
        self._asked = request
        self._lease = lease
        self._taken = taken

    async def settle_part(
        self,
        usage: UsageObject | None = None,
        *,
        kind: Kind | None = None,
        quantities: Quantities | None = None,
        timeout_s: float | None = None,
    ) -> admission_pb2.SettleResponse:
        """Refuse: a call within a lease is settled as a whole. Its usage so far is noted as `partial` notes it."""
        self.partial(usage, kind=kind, quantities=quantities)
        raise FailedPrecondition("A call within a lease is not settled in parts.", reason="CLIENT_LEASED")

    async def extend(
        self, *, until_s: float | None = None, max_output_tokens: int | None = None, timeout_s: float | None = None
    ) -> admission_pb2.Authorization:
        """Refuse: nothing is held for the call itself."""
        raise FailedPrecondition("Nothing is held for a call within a lease.", reason="CLIENT_LEASED")

    async def end(self, *, failed: bool) -> None:
        """Hand over what was used, and give back the rest.

        Raises:
            UsageMissing: the block said nothing. What was taken is given back when the lease ends.
        """
        outcome = self.outcome(failed=failed)
        if outcome == "cancel":
            self._lease.done(self._taken, None, self._taken.amounts)
        elif outcome == "missing":
            self._lease.done(self._taken, None, {})
            if not failed:
                raise UsageMissing("The block ended without saying what was used.")
        else:
            self._lease.done(self._taken, self._usage(outcome), unused_of(self._taken.amounts, outcome))

    def _usage(self, used: Used) -> usage_pb2.RecordUsageRequest:
        settlement, principal = self.request(used), self._asked.principal
        return usage_pb2.RecordUsageRequest(
            operation_id=settlement.operation_id,
            organization_id=principal.organization_id,
            project_id=principal.project_id,
            user_id=principal.user_id,
            service_account_id=principal.service_account_id,
            api_key_id=principal.api_key_id,
            subscription_id=self._asked.subscription_id,
            model=settlement.model,
            quantities=settlement.quantities,
            total_tokens=used.total_tokens,
            service_tier=settlement.service_tier or self._asked.service_tier,
            stated_amount=self.stated_amount,
            latency_ms=settlement.latency_ms,
            status_code=self.described.status_code,
            error_message=settlement.error_message,
            endpoint=settlement.endpoint or self._asked.endpoint,
            conversation_id=settlement.conversation_id,
            labels=settlement.labels,
            items=settlement.items,
            partial=not self.is_whole,
        )


def unused_of(most: Mapping[str, int | Decimal], used: Used) -> dict[str, int | Decimal]:
    """Return what is certainly left of what was taken: of metrics that are units, and of `total_tokens`."""
    counted = dict(used.quantities)
    if used.total_tokens is not None:
        counted["total_tokens"] = used.total_tokens
    return {metric: max(value - counted[metric], 0) for metric, value in most.items() if metric in counted}


def principal_within(
    lease: Lease, principal: admission_pb2.Principal | None, api_key: str | None
) -> admission_pb2.Principal:
    """Return on whose behalf a call within a lease is: the principal that was verified, or whom the lease is for.

    Raises:
        ValueError: a key is given, which nobody would verify; or the principal is another organization's.
    """
    if api_key is not None:
        raise ValueError("With a lease give the principal of a verified key, as `KeyCache` does, and not the key.")
    request = lease.request
    if principal is None:
        return admission_pb2.Principal(
            organization_id=request.organization_id,
            project_id=request.project_id,
            user_id=request.user_id,
            service_account_id=request.service_account_id,
            api_key_id=request.api_key_id,
        )
    if principal.organization_id != request.organization_id:
        raise ValueError("The lease is another organization's than the principal.")
    return principal


@asynccontextmanager
async def holding(
    channel: Callable[[], grpc.aio.Channel],
    request: lease_pb2.AcquireLeaseRequest,
    on_refused: OnRefused,
    within_s: float,
) -> AsyncIterator[Lease]:
    """Hold leases for as long as the block lasts, and give everything back at its end, which is tried for `within_s`.

    Raises:
        TollhouseError: at the end metering could not be reached. The leases then end by themselves, and
            `on_refused` got the usage that was not settled.
    """
    kept = lease_pb2.AcquireLeaseRequest()
    kept.CopyFrom(request)
    holder = LeaseHolder(channel(), kept, on_refused=lambda usage, status: on_refused(usage, error_of(status)))
    await holder.__aenter__()
    try:
        yield Lease(holder, kept)
    finally:
        await _give_back(holder, on_refused, within_s)


async def _give_back(holder: LeaseHolder, on_refused: OnRefused, within_s: float) -> None:
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + within_s
    while True:
        try:
            await holder.close()
            return
        except grpc.aio.AioRpcError as error:
            failed = error_of_call(error)
        except TollhouseError as error:
            failed = error
        if failed.code in _LOST_RIGHTS or loop.time() >= give_up_s:
            break
        await asyncio.sleep(random.uniform(0.5, 1) * min(_PAUSE_S, within_s / 4))
    for usage in holder.unsettled():
        try:
            on_refused(usage, failed)
        except Exception:  # noqa: BLE001 -- the caller's function must not keep the others from being told.
            _log.exception("What was to be told of the usage %s failed.", usage.operation_id)
    raise failed
