"""The calls of PlanService on experiments, for their tests."""

import hashlib
from collections.abc import Mapping

from libs.common.audit.recording import PLATFORM
from tests.billing.support import Ledger, organization
from tests.support.callers import Metadata
from tollhouse.billing.v1 import plan_pb2 as pb
from tollhouse.common.v1 import audit_pb2, audit_pb2_grpc


class Experiments:
    """The calls of PlanService on experiments."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    async def set(self, weights: Mapping[str, int], plan_code: str = "pro", etag: str = "") -> pb.PlanExperiment:
        variants = [pb.PlanVariant(plan_code=code, weight=weight) for code, weight in weights.items()]
        request = pb.SetPlanExperimentRequest(plan_code=plan_code, variants=variants, etag=etag)
        return (await self.ledger.plans.SetPlanExperiment(request, metadata=self.ledger.metadata)).experiment

    async def report(self, plan_code: str = "pro", experiment_id: str = "") -> pb.GetPlanExperimentResponse:
        request = pb.GetPlanExperimentRequest(plan_code=plan_code, experiment_id=experiment_id)
        return await self.ledger.plans.GetPlanExperiment(request, metadata=self.ledger.metadata, timeout=20)

    async def counts(self) -> dict[str, tuple[object, ...]]:
        """Per variant: saw, tried, subscribed, stayed, brought."""
        return {
            one.plan_code: (
                *(one.saw_count, one.tried_count, one.subscribed_count, one.stayed_count),
                *(f"{amount.value} {amount.currency_code}" for amount in one.brought),
            )
            for one in (await self.report()).results
        }

    async def offer(
        self, organization_id: str, user_id: str = "", plan_code: str = "pro", metadata: Metadata | None = None
    ) -> pb.GetPlanOfferResponse:
        request = pb.GetPlanOfferRequest(organization_id=organization_id, user_id=user_id, plan_code=plan_code)
        return await self.ledger.plans.GetPlanOffer(request, metadata=metadata or self.ledger.metadata)

    async def offered(self, organization_id: str, user_id: str = "") -> str:
        return (await self.offer(organization_id, user_id)).plan.plan_code

    async def audited(self, experiment: pb.PlanExperiment) -> list[dict[str, tuple[str, str]]]:
        request = audit_pb2.ListAuditEventsRequest(
            organization_id=PLATFORM, resource_type="plan_experiment", resource_id=experiment.experiment_id
        )
        stub = audit_pb2_grpc.AuditServiceStub(self.ledger.channel)
        events = (await stub.ListAuditEvents(request, metadata=self.ledger.metadata)).events
        return [{one.field: (one.before, one.after) for one in event.changes} for event in reversed(events)]


def expected(experiment: pb.PlanExperiment, organization_id: str, user_id: str = "") -> str:
    """The variant of a subject as a client computes it from the contract."""
    text = f"{experiment.experiment_id}/{organization_id}/{user_id}"
    rest = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % sum(one.weight for one in experiment.variants)
    for variant in sorted(experiment.variants, key=lambda one: one.plan_code):
        rest -= variant.weight
        if rest < 0:
            return variant.plan_code
    raise AssertionError("the weights have a sum")


def organization_of(experiment: pb.PlanExperiment, plan_code: str) -> str:
    """A new organization that gets a variant."""
    return next(one for one in iter(organization, "") if expected(experiment, one) == plan_code)
