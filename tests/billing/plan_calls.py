"""Calls of PlanService, made by an operator, for the tests of plans."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Final

import asyncpg
import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from libs.common.audit.recording import PLATFORM
from libs.common.database_url import plain_url
from libs.common.status import field_violations
from tests.billing.support import Ledger, refusal, usd
from tollhouse.billing.v1 import plan_pb2 as pb
from tollhouse.common.v1 import audit_pb2, audit_pb2_grpc
from tollhouse.common.v1.amount_pb2 import Amount

INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT
MONTH: Final = pb.Interval(unit=pb.INTERVAL_UNIT_MONTH, count=1)
SEEDED: Final = ("free", "basic", "pro", "enterprise")


def credit(value: str) -> Amount:
    return Amount(currency_code="CREDIT", value=value)


def included(value: str = "100", **fields: object) -> pb.IncludedCredits:
    return pb.IncludedCredits(amount=credit(value), **{"rollover": pb.ROLLOVER_NONE} | fields)  # type: ignore[arg-type]


def limit(code: str = "requests_per_minute", value: str = "5", **fields: object) -> pb.Entitlement:
    known = {"metric": "requests", "window": pb.LIMIT_WINDOW_MINUTE, "value": value} | fields
    return pb.Entitlement(entitlement_code=code, limit=pb.EntitledLimit(**known))  # type: ignore[arg-type]


def feature(code: str = "api_access", *, enabled: bool = True) -> pb.Entitlement:
    return pb.Entitlement(entitlement_code=code, enabled=enabled)


def terms(price: str = "12.5", **fields: object) -> pb.PlanTerms:
    known = {
        "price": usd(price),
        "billing_interval": MONTH,
        "past_due": pb.PastDuePolicy(end=pb.PAST_DUE_END_CANCEL),
    }
    return pb.PlanTerms(**known | fields)  # type: ignore[arg-type]


def everything() -> pb.PlanTerms:
    """Return terms in which each field of each message is set, and each kind of entitlement occurs."""
    return terms(
        "49.000000001",
        billing_interval=pb.Interval(unit=pb.INTERVAL_UNIT_YEAR, count=10),
        credits=[
            included("100", rollover=pb.ROLLOVER_UP_TO, rollover_max=credit("250"), priority=1000),
            pb.IncludedCredits(amount=usd("0.5"), rollover=pb.ROLLOVER_ALL, priority=3),
        ],
        trial=pb.Interval(unit=pb.INTERVAL_UNIT_DAY, count=14),
        entitlements=[
            feature("api_access"),
            feature("white_label", enabled=False),
            pb.Entitlement(entitlement_code="seats", number="-2.5"),
            pb.Entitlement(entitlement_code="region", text="Zürich \N{FACE WITH TEARS OF JOY}"),
            pb.Entitlement(entitlement_code="no_text", text=""),
            limit(),
            limit("budget", "20", metric="spend", currency_code="USD", window=pb.LIMIT_WINDOW_PERIOD, soft=True),
            pb.Entitlement(
                entitlement_code="tokens",
                limit=pb.EntitledLimit(metric="total_tokens", window=pb.LIMIT_WINDOW_LIFETIME, unlimited=True),
            ),
        ],
        past_due=pb.PastDuePolicy(
            retry_after=[Duration(seconds=1), Duration(seconds=90 * 86_400)],
            end=pb.PAST_DUE_END_CHANGE_PLAN,
            fallback_plan_code="free",
        ),
        metadata={"colour": "blue", "a.b/c": ""},
        usage_charges=[
            pb.UsageCharge(
                usage_charge_code="pages",
                name="Seiten",
                unit="pages",
                models=["reader", "acme/reader-2"],
                mode=pb.USAGE_CHARGE_MODE_VOLUME,
                steps=[pb.UsageStep(up_to="250.5", price="0.02", flat="1"), pb.UsageStep(price="0")],
                flat_fee="9.5",
                flat_fee_without_usage=True,
            )
        ],
    )


def new_plan(plan_code: str = "team", **fields: object) -> pb.CreatePlanRequest:
    return pb.CreatePlanRequest(**{"plan_code": plan_code, "name": "Team", "terms": terms()} | fields)  # type: ignore[arg-type]


def reference(external_id: str = "4711", **fields: str) -> pb.ProviderReference:
    return pb.ProviderReference(**{"provider": "lemon_squeezy", "kind": "variant", "external_id": external_id} | fields)


def update(plan: pb.Plan, paths: Sequence[str] = (), **fields: object) -> pb.UpdatePlanRequest:
    """Return an update of the given fields, or of the paths; the request id and the etag are none of the plan's."""
    request = pb.UpdatePlanRequest(plan_id=plan.plan_id, **fields)  # type: ignore[arg-type]
    request.update_mask.paths.extend(paths or [name for name in fields if name not in ("request_id", "etag")])
    return request


async def created(ledger: Ledger, request: pb.CreatePlanRequest | None = None) -> pb.Plan:
    return (await ledger.plans.CreatePlan(request or new_plan(), metadata=ledger.metadata)).plan


async def updated(ledger: Ledger, request: pb.UpdatePlanRequest) -> pb.Plan:
    return (await ledger.plans.UpdatePlan(request, metadata=ledger.metadata)).plan


async def repriced(ledger: Ledger, plan: pb.Plan, price: str, etag: str = "") -> pb.Plan:
    """Change the price of a plan's draft."""
    return await updated(ledger, update(plan, ["terms.price"], terms=pb.PlanTerms(price=usd(price)), etag=etag))


async def published(ledger: Ledger, plan: pb.Plan, version: int = 1, etag: str = "") -> pb.Plan:
    request = pb.PublishPlanVersionRequest(plan_id=plan.plan_id, version=version, etag=etag)
    return (await ledger.plans.PublishPlanVersion(request, metadata=ledger.metadata)).plan


async def archived(ledger: Ledger, plan: pb.Plan) -> pb.Plan:
    request = pb.ArchivePlanRequest(plan_id=plan.plan_id)
    return (await ledger.plans.ArchivePlan(request, metadata=ledger.metadata)).plan


async def found(ledger: Ledger, plan_code: str = "team", version: int = 0) -> pb.Plan:
    request = pb.GetPlanRequest(plan_code=plan_code, version=version)
    return (await ledger.plans.GetPlan(request, metadata=ledger.metadata)).plan


async def listed(ledger: Ledger, metadata: object = None, **fields: object) -> list[pb.Plan]:
    """All plans of a list, from as many pages as there are."""
    request = pb.ListPlansRequest(**fields)  # type: ignore[arg-type]
    plans: list[pb.Plan] = []
    while True:
        page = await ledger.plans.ListPlans(request, metadata=metadata or ledger.metadata)  # type: ignore[arg-type]
        plans += page.plans
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return plans


def codes(plans: Sequence[pb.Plan]) -> list[str]:
    return [plan.plan_code for plan in plans]


async def faults(call: Awaitable[object]) -> Mapping[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() is INVALID
    return field_violations(error.value)


async def reason(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    """The status and the reason with which a call is refused."""
    return (await refusal(call))[:2]


async def events(ledger: Ledger, plan_id: str) -> list[audit_pb2.AuditEvent]:
    """The events of a plan in the audit trail, the oldest first."""
    request = audit_pb2.ListAuditEventsRequest(
        organization_id=PLATFORM, resource_type="plan", resource_id=plan_id, page_size=1000
    )
    stub = audit_pb2_grpc.AuditServiceStub(ledger.channel)
    return list((await stub.ListAuditEvents(request, metadata=ledger.metadata)).events)[::-1]


async def executed(admin_url: str, statement: str, *values: object) -> None:
    """Change what is stored, past the service."""
    connection = await asyncpg.connect(plain_url(admin_url))
    try:
        await connection.execute(statement, *values)
    finally:
        await connection.close()


async def fetched(admin_url: str, query: str) -> list[str]:
    """Return the first column of what is stored."""
    connection = await asyncpg.connect(plain_url(admin_url))
    try:
        return [row[0] for row in await connection.fetch(query)]
    finally:
        await connection.close()
