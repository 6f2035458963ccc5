"""The RPCs of UsageService that re-rate usage: proto in, use case, proto out."""

from collections.abc import Mapping
from typing import Final

import grpc

from libs.common.pages import encode_page_token, id_in_token, page_size, that_fit
from libs.common.validation import Reader
from services.metering.usage.rerate.jobs import RerateJobs
from services.metering.usage.rerate.parsing import preview_fingerprint, read_asked, read_scope
from services.metering.usage.rerate.previews import Previews
from services.metering.usage.rerate.rendering import render_job, render_preview
from tollhouse.metering.v1 import usage_pb2 as pb
from tollhouse.metering.v1 import usage_pb2_grpc as rpc

_LIST: Final = "rerate jobs"


class RerateServicer(rpc.UsageServiceServicer):
    """Serves the jobs that price usage again."""

    def __init__(self, previews: Previews, jobs: RerateJobs) -> None:
        self._previews = previews
        self._jobs = jobs

    @property
    def rerate_readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {"RerateUsage": read_scope}

    async def RerateUsage(
        self, request: pb.RerateUsageRequest, context: grpc.aio.ServicerContext
    ) -> pb.RerateUsageResponse:
        asked = read_asked(request)
        if not request.validate_only:
            shown = await self._jobs.make(asked)
            return pb.RerateUsageResponse(job=render_job(shown), replayed=shown.replayed)
        scope = await self._previews.resolved(asked.scope)
        size = page_size(request.page_size)
        page = await self._previews.page(scope, size, request.page_token, preview_fingerprint(asked.scope))
        return render_preview(page)

    async def GetRerateJob(
        self, request: pb.GetRerateJobRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetRerateJobResponse:
        return pb.GetRerateJobResponse(job=render_job(await self._jobs.get(request.job_id.lower())))

    async def ListRerateJobs(
        self, request: pb.ListRerateJobsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListRerateJobsResponse:
        size = page_size(request.page_size)
        found = await self._jobs.page(id_in_token(request.page_token, _LIST), size)
        rendered = that_fit(map(render_job, found))
        token = ""
        if rendered and (len(rendered) < len(found) or len(found) == size):
            token = encode_page_token(rendered[-1].job_id, fingerprint=_LIST)
        return pb.ListRerateJobsResponse(jobs=rendered, next_page_token=token)

    async def PauseRerateJob(
        self, request: pb.PauseRerateJobRequest, context: grpc.aio.ServicerContext
    ) -> pb.PauseRerateJobResponse:
        return pb.PauseRerateJobResponse(job=render_job(await self._jobs.pause(request.job_id.lower())))

    async def ResumeRerateJob(
        self, request: pb.ResumeRerateJobRequest, context: grpc.aio.ServicerContext
    ) -> pb.ResumeRerateJobResponse:
        return pb.ResumeRerateJobResponse(job=render_job(await self._jobs.resume(request.job_id.lower())))

    async def CancelRerateJob(
        self, request: pb.CancelRerateJobRequest, context: grpc.aio.ServicerContext
    ) -> pb.CancelRerateJobResponse:
        return pb.CancelRerateJobResponse(job=render_job(await self._jobs.cancel(request.job_id.lower())))
