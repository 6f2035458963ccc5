"""Drops of months in one line each."""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.clock import SystemClock
from tests.metering.support import Metering, eventually, usage
from tollhouse.metering.v1 import retention_pb2 as pb
from tollhouse.metering.v1 import usage_pb2

IN_PROGRESS = (pb.USAGE_DROP_STATE_SEALED, pb.USAGE_DROP_STATE_DROPPING)


def months_ago(count: int) -> datetime:
    """Return the beginning of the month so many before the present one."""
    moment = SystemClock().now().astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    for _ in range(count):
        moment = (moment - timedelta(days=1)).replace(day=1)
    return moment


MONTH = months_ago(6)
NAME = f"{MONTH:%Y-%m}"


def at(moment: datetime, **later: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment + timedelta(**later))
    return stamp


def old_usage(
    organization_id: str, operation_id: str = "", month: datetime = MONTH, **fields: object
) -> usage_pb2.RecordUsageRequest:
    """Return usage of the third day of a month that is long over."""
    return usage(organization_id, operation_id, occur_time=at(month, days=2, hours=1), backfill=True, **fields)


async def retain(metering: Metering, organization_id: str = "", months: int = 3) -> pb.UsageRetention:
    request = pb.SetUsageRetentionRequest(organization_id=organization_id, months=months)
    return (await metering.retention.SetUsageRetention(request, metadata=metering.operator)).retention


async def numbers(metering: Metering, organization_id: str = "", month: str = NAME) -> pb.DigestUsageMonthResponse:
    """Return the numbers of a month's usage, as its export has them."""
    request = pb.DigestUsageMonthRequest(organization_id=organization_id, month=month)
    pieces = [piece async for piece in metering.retention.DigestUsageMonth(request, metadata=metering.operator)]
    assert pieces[-1].done
    assert sum(piece.rows_read for piece in pieces) == pieces[-1].usage_count
    return pieces[-1]


async def ask(
    metering: Metering, organization_id: str = "", month: str = NAME, **others: object
) -> pb.DropUsageMonthRequest:
    """Return a request to drop a month with the numbers that it has now."""
    known = await numbers(metering, organization_id, month)
    request = pb.DropUsageMonthRequest(
        organization_id=organization_id,
        month=month,
        usage_count=known.usage_count,
        totals=known.totals,
        digest=known.digest,
    )
    for name, value in others.items():
        setattr(request, name, value)
    return request


async def send(metering: Metering, request: pb.DropUsageMonthRequest) -> pb.UsageDrop:
    return (await metering.retention.DropUsageMonth(request, metadata=metering.operator)).drop


async def ended(metering: Metering, organization_id: str = "", month: str = NAME) -> pb.UsageDrop:
    """Return a drop when it has ended."""
    request = pb.GetUsageDropRequest(organization_id=organization_id, month=month)

    async def look() -> pb.UsageDrop:
        return (await metering.retention.GetUsageDrop(request, metadata=metering.operator)).drop

    return await eventually(look, lambda drop: drop.state not in IN_PROGRESS)


async def drop(metering: Metering, organization_id: str = "", month: str = NAME) -> pb.UsageDrop:
    """Drop a month, and return the drop when it has ended."""
    await send(metering, await ask(metering, organization_id, month))
    return await ended(metering, organization_id, month)


async def months(metering: Metering, organization_id: str = "") -> dict[str, pb.UsageMonth]:
    request = pb.ListUsageMonthsRequest(organization_id=organization_id, page_size=2)
    found: dict[str, pb.UsageMonth] = {}
    while True:
        page = await metering.retention.ListUsageMonths(request, metadata=metering.operator)
        found |= {one.month: one for one in page.months}
        request.page_token = page.next_page_token
        if not request.page_token:
            return found
