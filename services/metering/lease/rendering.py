"""Leases in answers."""

from collections.abc import Sequence

from libs.common.amount import format_amount
from libs.common.timestamps import render_time
from services.metering.admission.rendering import fill_reason, fill_settle_outcome, shorten_settled
from services.metering.lease.domain import Acquired, Settled, amounts_used, held_amount
from services.metering.model.units import Units
from services.metering.quota.domain import SPEND
from services.metering.quota.rendering import render_statuses
from services.metering.usage.domain import Outcome, limits_to_tell
from tollhouse.metering.v1 import lease_pb2 as pb
from tollhouse.metering.v1 import usage_pb2


def render_acquired(acquired: Acquired) -> pb.AcquireLeaseResponse:
    lease = acquired.lease
    response = pb.AcquireLeaseResponse(
        acquired=lease is not None,
        limits=render_statuses(acquired.limits, acquired.refused),
        replayed=acquired.replayed,
    )
    if acquired.denied is not None:
        fill_reason(response.denial, acquired.denied)
    if lease is None:
        return response
    for metric, value in lease.amounts:
        amount = response.amounts.add(metric=metric, value=format_amount(value))
        if metric == SPEND:
            amount.currency_code = lease.currency_code
    held = held_amount(lease)
    if held:
        response.held_amount.currency_code = lease.currency_code
        response.held_amount.value = format_amount(held)
    if lease.lease_end_time is not None:
        response.end_time.CopyFrom(render_time(lease.lease_end_time))
    return response


def render_settled(
    usages: Sequence[usage_pb2.RecordUsageRequest],
    outcomes: Sequence[tuple[Outcome, Sequence[str]]],
    settled: Settled,
    units: Units,
) -> pb.SettleLeaseResponse:
    """Return the answer: `outcomes` are those of all usages of the request, with the fields that were adjusted."""
    lease = settled.lease
    response = pb.SettleLeaseResponse(ended=lease.released, lapsed=lease.lapsed)
    limits = limits_to_tell([outcome for outcome, _ in outcomes])
    for usage, (outcome, adjusted), told in zip(usages, outcomes, limits, strict=True):
        fill_settle_outcome(response.outcomes.add(), usage, outcome, adjusted, units, told)
    for one in () if lease.declined else amounts_used(lease):
        response.amounts.add(
            metric=one.metric,
            currency_code=one.currency_code,
            value=format_amount(one.value),
            used=format_amount(one.used),
            remaining=format_amount(one.remaining),
            overrun=format_amount(one.overrun),
        )
    if settled.released is not None:
        response.released_amount.currency_code = lease.currency_code
        response.released_amount.value = settled.released
    shorten_settled(response)
    return response
