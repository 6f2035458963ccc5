"""Calls of SubscriptionService, for the tests of subscriptions."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, TypeVar

import grpc

from libs.common.ids import new_id
from libs.common.timestamps import render_time
from tests.billing import plan_calls
from tests.billing.support import Ledger, organization
from tests.support.callers import Metadata
from tollhouse.billing.v1 import account_pb2, plan_pb2
from tollhouse.billing.v1 import subscription_pb2 as pb
from tollhouse.billing.v1 import subscription_pb2_grpc as rpc
from tollhouse.common.v1 import audit_pb2, audit_pb2_grpc

NOW: Final = pb.CHANGE_TIMING_NOW
PERIOD_END: Final = pb.CHANGE_TIMING_PERIOD_END
FAILED: Final = grpc.StatusCode.FAILED_PRECONDITION
DENIED: Final = grpc.StatusCode.PERMISSION_DENIED
EXISTS: Final = grpc.StatusCode.ALREADY_EXISTS
ABORTED: Final = grpc.StatusCode.ABORTED
NOT_FOUND: Final = grpc.StatusCode.NOT_FOUND


_Request = TypeVar("_Request")


class Subscriptions:
    """SubscriptionService of a server, called as an operator, or as somebody else with `credentials`."""

    def __init__(self, ledger: Ledger, credentials: Callable[[], Metadata] | None = None) -> None:
        self._credentials = credentials or (lambda: ledger.metadata)
        self.stub: rpc.SubscriptionServiceStub = rpc.SubscriptionServiceStub(ledger.channel)
        self.ledger = ledger
        self.organization_ids: set[str] = set()
        """Those that were named by the calls that make subscriptions."""

    @property
    def metadata(self) -> Metadata:
        return self._credentials()

    async def create(self, organization_id: str = "", plan_code: str = "free", **fields: object) -> pb.Subscription:
        return (await self.creation(organization_id, plan_code, **fields)).subscription

    async def creation(
        self, organization_id: str = "", plan_code: str = "free", **fields: object
    ) -> pb.CreateSubscriptionResponse:
        organization_id = organization_id or organization()
        self.organization_ids.add(organization_id)
        request = pb.CreateSubscriptionRequest(
            organization_id=organization_id,
            plan_code=plan_code,
            **_with_times(fields),  # type: ignore[arg-type]
        )
        return await self.stub.CreateSubscription(request, metadata=self.metadata, timeout=20)

    async def model(self, model: str = "gpt-9", organization_id: str = "", **fields: object) -> pb.Subscription:
        """Subscribe a user to a model, without a plan."""
        user_id = str(fields.pop("user_id", new_id()))
        return await self.create(organization_id, "", user_id=user_id, model=model, **fields)

    async def get(self, s: pb.Subscription) -> pb.Subscription:
        return (
            await self.stub.GetSubscription(_named(pb.GetSubscriptionRequest, s), metadata=self.metadata)
        ).subscription

    async def listed(self, organization_id: str, **fields: object) -> list[pb.Subscription]:
        """All pages of a list."""
        request = pb.ListSubscriptionsRequest(organization_id=organization_id, **_with_times(fields))  # type: ignore[arg-type]
        found: list[pb.Subscription] = []
        while True:
            page = await self.stub.ListSubscriptions(request, metadata=self.metadata, timeout=20)
            found += page.subscriptions
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return found

    async def due(self, **fields: object) -> list[pb.Subscription]:
        request = pb.ListDueSubscriptionsRequest(**_with_times(fields))  # type: ignore[arg-type]
        found: list[pb.Subscription] = []
        while True:
            page = await self.stub.ListDueSubscriptions(request, metadata=self.metadata, timeout=20)
            found += page.subscriptions
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return found

    async def events(self, s: pb.Subscription, page_size: int = 1000) -> list[pb.SubscriptionEvent]:
        request = _named(pb.ListSubscriptionEventsRequest, s, page_size=page_size)
        found: list[pb.SubscriptionEvent] = []
        while True:
            page = await self.stub.ListSubscriptionEvents(request, metadata=self.metadata, timeout=20)
            found += page.events
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return found

    async def kinds(self, s: pb.Subscription) -> list[str]:
        prefix = "SUBSCRIPTION_EVENT_KIND_"
        return [pb.SubscriptionEventKind.Name(event.kind).removeprefix(prefix) for event in await self.events(s)]

    async def approve(self, s: pb.Subscription, **fields: object) -> pb.Subscription:
        request = _named(pb.ApproveSubscriptionRequest, s, **fields)
        return (await self.stub.ApproveSubscription(request, metadata=self.metadata)).subscription

    async def reject(self, s: pb.Subscription, reason: str = "no", **fields: object) -> pb.Subscription:
        request = _named(pb.RejectSubscriptionRequest, s, reason=reason, **fields)
        return (await self.stub.RejectSubscription(request, metadata=self.metadata)).subscription

    async def update(self, s: pb.Subscription, *paths: str, etag: str = "", **fields: object) -> pb.Subscription:
        request = _named(pb.UpdateSubscriptionRequest, s, etag=etag, **_with_times(fields))
        request.update_mask.paths.extend(paths or fields)
        return (await self.stub.UpdateSubscription(request, metadata=self.metadata)).subscription

    async def change(
        self, s: pb.Subscription, plan_code: str, timing: pb.ChangeTiming.ValueType = NOW, **fields: object
    ) -> pb.ChangePlanResponse:
        request = _named(pb.ChangePlanRequest, s, plan_code=plan_code, timing=timing, **fields)
        return await self.stub.ChangePlan(request, metadata=self.metadata, timeout=20)

    async def withdraw_change(self, s: pb.Subscription, **fields: object) -> pb.Subscription:
        request = _named(pb.WithdrawPlanChangeRequest, s, **fields)
        return (await self.stub.WithdrawPlanChange(request, metadata=self.metadata)).subscription

    async def pause(self, s: pb.Subscription, **fields: object) -> pb.Subscription:
        request = _named(pb.PauseSubscriptionRequest, s, **fields)
        return (await self.stub.PauseSubscription(request, metadata=self.metadata)).subscription

    async def resume(self, s: pb.Subscription, **fields: object) -> pb.Subscription:
        request = _named(pb.ResumeSubscriptionRequest, s, **fields)
        return (await self.stub.ResumeSubscription(request, metadata=self.metadata)).subscription

    async def suspend(self, s: pb.Subscription, reason: str = "abuse", **fields: object) -> pb.Subscription:
        request = _named(pb.SuspendSubscriptionRequest, s, reason=reason, **fields)
        return (await self.stub.SuspendSubscription(request, metadata=self.metadata)).subscription

    async def retry(self, s: pb.Subscription) -> pb.Subscription:
        return (await self.stub.RetryPayment(_named(pb.RetryPaymentRequest, s), metadata=self.metadata)).subscription

    async def cancel(
        self, s: pb.Subscription, timing: pb.ChangeTiming.ValueType = NOW, **fields: object
    ) -> pb.Subscription:
        request = _named(pb.CancelSubscriptionRequest, s, timing=timing, **fields)
        return (await self.stub.CancelSubscription(request, metadata=self.metadata)).subscription

    async def withdraw_cancellation(self, s: pb.Subscription, **fields: object) -> pb.Subscription:
        request = _named(pb.WithdrawCancellationRequest, s, **fields)
        return (await self.stub.WithdrawCancellation(request, metadata=self.metadata)).subscription

    async def audited(self, s: pb.Subscription) -> list[str]:
        """The actions in the audit trail on a subscription, the oldest first."""
        request = audit_pb2.ListAuditEventsRequest(
            organization_id=s.organization_id,
            resource_type="subscription",
            resource_id=s.subscription_id,
            page_size=1000,
        )
        stub = audit_pb2_grpc.AuditServiceStub(self.ledger.channel)
        events = (await stub.ListAuditEvents(request, metadata=self.ledger.metadata)).events
        return [event.action for event in reversed(events)]


async def add_plan(
    ledger: Ledger, plan_code: str, price: str = "30", *, active: bool = True, **fields: object
) -> plan_pb2.Plan:
    """Add a plan that is published."""
    request = plan_calls.new_plan(plan_code, terms=plan_calls.terms(price, **fields), inactive=not active)
    return await plan_calls.published(ledger, await plan_calls.created(ledger, request))


async def settled(ledger: Ledger, organization_id: str) -> None:
    """Let what is due for the organization's credits be done, as the worker does that the tests do not run."""
    request = account_pb2.ListAccountsRequest(organization_id=organization_id)
    await ledger.accounts.ListAccounts(request, metadata=ledger.metadata)


async def faults(call: Awaitable[object]) -> set[str]:
    """The fields at fault."""
    return set(await plan_calls.faults(call))


def state(s: pb.Subscription) -> str:
    return pb.SubscriptionState.Name(s.state).removeprefix("SUBSCRIPTION_STATE_")


def _named(kind: Callable[..., _Request], s: pb.Subscription, **fields: object) -> _Request:
    return kind(organization_id=s.organization_id, subscription_id=s.subscription_id, **fields)


def _with_times(fields: dict[str, object]) -> dict[str, object]:
    return {name: render_time(value) if isinstance(value, datetime) else value for name, value in fields.items()}
