"""Re-rates in one line each."""

from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.ids import new_id
from tests.metering.support import Metering, eventually, stamp
from tollhouse.metering.v1 import usage_pb2 as pb

ENDED = (pb.RERATE_JOB_STATE_DONE, pb.RERATE_JOB_STATE_CANCELED, pb.RERATE_JOB_STATE_REFUSED)


def rerate(organization_id: str = "", **fields: object) -> pb.RerateUsageRequest:
    """Return a request for the usage of an organization, or of all, in the last two days."""
    request = pb.RerateUsageRequest(
        operation_id=f"rerate-{new_id()}",
        organization_ids=[organization_id] if organization_id else [],
        start_time=stamp(days=-2),
        end_time=stamp(minutes=10),
    )
    request.MergeFrom(pb.RerateUsageRequest(**fields))  # type: ignore[arg-type]
    return request


async def previewed(
    metering: Metering, request: pb.RerateUsageRequest, size: int = 50
) -> tuple[list[pb.RerateDifference], str]:
    """Return what a re-rate would do, and the digest of it."""
    asked = pb.RerateUsageRequest()
    asked.CopyFrom(request)
    asked.validate_only, asked.page_size = True, size
    found: list[pb.RerateDifference] = []
    while True:
        page = await metering.usage.RerateUsage(asked, metadata=metering.operator)
        found += page.differences
        asked.page_token = page.next_page_token
        if not page.next_page_token:
            return found, page.digest


async def begun(metering: Metering, request: pb.RerateUsageRequest) -> pb.RerateJob:
    return (await metering.usage.RerateUsage(request, metadata=metering.operator)).job


async def job(metering: Metering, job_id: str) -> pb.RerateJob:
    request = pb.GetRerateJobRequest(job_id=job_id)
    return (await metering.usage.GetRerateJob(request, metadata=metering.operator)).job


async def ended(metering: Metering, job_id: str) -> pb.RerateJob:
    """Return a job when it has ended."""
    return await eventually(lambda: job(metering, job_id), lambda one: one.state in ENDED)


async def done(metering: Metering, request: pb.RerateUsageRequest) -> pb.RerateJob:
    """Return the job of a request when it is done."""
    last = await ended(metering, (await begun(metering, request)).job_id)
    assert last.state == pb.RERATE_JOB_STATE_DONE
    return last


def later(seconds: int) -> Timestamp:
    """Return a time at which a price may begin to hold: before all usage, and after that of a smaller number."""
    return Timestamp(seconds=seconds)
