"""The gRPC service of plans: requests are parsed, use cases called, responses rendered."""

from collections.abc import Mapping

import grpc

from libs.common.call import is_limited
from libs.common.pages import encode_page_token, page_size
from libs.common.repeats.parsing import repeatable
from libs.common.validation import Reader
from services.billing.plan.experiments import Experiments
from services.billing.plan.parsing import check_name, read_changes, read_new_plan, read_place, read_weights
from services.billing.plan.plans import Plans
from services.billing.plan.rendering import render_experiment, render_plan, render_result
from tollhouse.billing.v1 import plan_pb2 as pb
from tollhouse.billing.v1 import plan_pb2_grpc as rpc

_Context = grpc.aio.ServicerContext


class PlanServicer(rpc.PlanServiceServicer):
    """Implements PlanService."""

    def __init__(self, plans: Plans, experiments: Experiments) -> None:
        self._plans = plans
        self._experiments = experiments

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "CreatePlan": read_new_plan,
            "GetPlan": check_name,
            "UpdatePlan": read_changes,
            "SetPlanExperiment": read_weights,
        }

    async def CreatePlan(self, request: pb.CreatePlanRequest, context: _Context) -> pb.CreatePlanResponse:
        answer, replayed = await self._plans.create(
            read_new_plan(request),
            repeatable(request.request_id, "CreatePlan", request),
            lambda plan: pb.CreatePlanResponse(plan=render_plan(plan)).SerializeToString(),
        )
        response = pb.CreatePlanResponse.FromString(answer)
        response.replayed = replayed
        return response

    async def GetPlan(self, request: pb.GetPlanRequest, context: _Context) -> pb.GetPlanResponse:
        check_name(request)
        plan, asked = await self._plans.get(request.plan_id.lower(), request.plan_code, request.version)
        return pb.GetPlanResponse(plan=render_plan(plan, asked))

    async def ListPlans(self, request: pb.ListPlansRequest, context: _Context) -> pb.ListPlansResponse:
        fingerprint = f"plans/{request.include_inactive}/{is_limited()}"
        page = await self._plans.list_plans(
            after=read_place(request.page_token, fingerprint),
            include_inactive=request.include_inactive,
            limit=page_size(request.page_size),
            render=render_plan,
        )
        token = ""
        if page.next_after is not None:
            sort_order, plan_code = page.next_after
            token = encode_page_token(str(sort_order), plan_code, fingerprint=fingerprint)
        return pb.ListPlansResponse(plans=page.plans, next_page_token=token)

    async def UpdatePlan(self, request: pb.UpdatePlanRequest, context: _Context) -> pb.UpdatePlanResponse:
        answer, replayed = await self._plans.update(
            request.plan_id.lower(),
            read_changes(request),
            request.etag,
            repeatable(request.request_id, "UpdatePlan", request),
            lambda plan: pb.UpdatePlanResponse(plan=render_plan(plan)).SerializeToString(),
        )
        response = pb.UpdatePlanResponse.FromString(answer)
        response.replayed = replayed
        return response

    async def PublishPlanVersion(
        self, request: pb.PublishPlanVersionRequest, context: _Context
    ) -> pb.PublishPlanVersionResponse:
        plan = await self._plans.publish(request.plan_id.lower(), request.version, request.etag)
        return pb.PublishPlanVersionResponse(plan=render_plan(plan))

    async def ArchivePlan(self, request: pb.ArchivePlanRequest, context: _Context) -> pb.ArchivePlanResponse:
        return pb.ArchivePlanResponse(plan=render_plan(await self._plans.archive(request.plan_id.lower())))

    async def SetPlanExperiment(
        self, request: pb.SetPlanExperimentRequest, context: _Context
    ) -> pb.SetPlanExperimentResponse:
        experiment = await self._experiments.set(request.plan_code, read_weights(request), request.etag)
        return pb.SetPlanExperimentResponse(experiment=render_experiment(experiment))

    async def GetPlanExperiment(
        self, request: pb.GetPlanExperimentRequest, context: _Context
    ) -> pb.GetPlanExperimentResponse:
        experiment, results = await self._experiments.report(request.plan_code, request.experiment_id.lower())
        return pb.GetPlanExperimentResponse(
            experiment=render_experiment(experiment), results=map(render_result, results)
        )

    async def GetPlanOffer(self, request: pb.GetPlanOfferRequest, context: _Context) -> pb.GetPlanOfferResponse:
        plan, experiment_id = await self._experiments.offer(
            request.organization_id.lower(), request.user_id.lower(), request.plan_code
        )
        return pb.GetPlanOfferResponse(plan=render_plan(plan), experiment_id=experiment_id)
