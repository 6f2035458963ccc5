"""Calls on entitlements, made by an operator."""

from services.billing.subscription.domain import AgreedPlan
from tests.billing.plan_calls import created, new_plan, published, terms
from tests.billing.support import Ledger
from tollhouse.billing.v1 import plan_pb2
from tollhouse.billing.v1 import subscription_pb2 as pb


def said(code: str, text: str) -> plan_pb2.Entitlement:
    return plan_pb2.Entitlement(entitlement_code=code, text=text)


async def plan_that_says(ledger: Ledger, plan_code: str, *entitlements: plan_pb2.Entitlement) -> AgreedPlan:
    """Publish version 1 of a plan with these entitlements."""
    plan = await created(ledger, new_plan(plan_code, terms=terms("0", entitlements=entitlements)))
    await published(ledger, plan)
    return AgreedPlan(plan.plan_id, plan_code, 1)


async def entitlements(ledger: Ledger, organization_id: str, **fields: str) -> pb.GetEntitlementsResponse:
    request = pb.GetEntitlementsRequest(organization_id=organization_id, **fields)
    return await ledger.subscriptions.GetEntitlements(request, metadata=ledger.metadata, timeout=20)


async def texts(ledger: Ledger, organization_id: str, **fields: str) -> dict[str, tuple[str, str]]:
    """The texts that a subject is entitled to, each with its source."""
    answer = await entitlements(ledger, organization_id, **fields)
    return {
        one.entitlement.entitlement_code: (
            one.entitlement.text,
            pb.EntitlementSource.Name(one.source).removeprefix("ENTITLEMENT_SOURCE_").lower(),
        )
        for one in answer.entitlements
    }


def override(
    organization_id: str, code: str = "tier", text: str = "gold", **fields: object
) -> pb.SetEntitlementOverrideRequest:
    known = {"entitlement": said(code, text), "reason": "as agreed by phone"} | fields
    return pb.SetEntitlementOverrideRequest(organization_id=organization_id, entitlement_code=code, **known)  # type: ignore[arg-type]


def clearing(organization_id: str, code: str = "tier", **fields: object) -> pb.SetEntitlementOverrideRequest:
    known = {"clear": True, "reason": "the agreement ended"} | fields
    return pb.SetEntitlementOverrideRequest(organization_id=organization_id, entitlement_code=code, **known)  # type: ignore[arg-type]


async def set_override(ledger: Ledger, request: pb.SetEntitlementOverrideRequest) -> pb.SetEntitlementOverrideResponse:
    return await ledger.subscriptions.SetEntitlementOverride(request, metadata=ledger.metadata, timeout=20)


async def overrides(ledger: Ledger, organization_id: str, **fields: object) -> list[pb.EntitlementOverride]:
    """All of an organization's overrides, from as many pages as there are."""
    request = pb.ListEntitlementOverridesRequest(organization_id=organization_id, **fields)  # type: ignore[arg-type]
    found: list[pb.EntitlementOverride] = []
    while True:
        page = await ledger.subscriptions.ListEntitlementOverrides(request, metadata=ledger.metadata, timeout=20)
        found += page.entitlement_overrides
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token
