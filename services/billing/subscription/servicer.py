"""SubscriptionService over gRPC: requests are parsed, use cases called, responses rendered."""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import grpc

from libs.common.repeats.parsing import repeatable
from libs.common.timestamps import parse_optional_time
from libs.common.validation import Reader
from services.billing.subscription.creation import Creation
from services.billing.subscription.entitlement_servicer import EntitlementServicer
from services.billing.subscription.listings import Listings
from services.billing.subscription.parsing import (
    check_reason,
    read_due_before,
    read_filter,
    read_new_subscription,
    read_plan_change,
    read_updates,
)
from services.billing.subscription.plan_changes import PlanChanges
from services.billing.subscription.rendering import render_event, render_plan_change, render_subscription
from services.billing.subscription.subscriptions import Subscriptions
from services.billing.subscription.worker import PeriodRun
from tollhouse.billing.v1 import subscription_pb2 as pb
from tollhouse.billing.v1 import subscription_pb2_grpc as rpc

_Context = grpc.aio.ServicerContext


class SubscriptionServicer(rpc.SubscriptionServiceServicer):
    """Implements SubscriptionService; its RPCs on entitlements are those of `EntitlementServicer`."""

    def __init__(
        self,
        creation: Creation,
        subscriptions: Subscriptions,
        plan_changes: PlanChanges,
        listings: Listings,
        entitlements: EntitlementServicer,
        period_run: PeriodRun,
    ) -> None:
        self._creation = creation
        self._subscriptions = subscriptions
        self._plan_changes = plan_changes
        self._listings = listings
        self._entitlements = entitlements
        self._period_run = period_run

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "CreateSubscription": read_new_subscription,
            "RejectSubscription": check_reason,
            "SuspendSubscription": check_reason,
            "UpdateSubscription": read_updates,
            **self._entitlements.readers,
        }

    async def CreateSubscription(
        self, request: pb.CreateSubscriptionRequest, context: _Context
    ) -> pb.CreateSubscriptionResponse:
        created, replayed = await self._creation.create(
            read_new_subscription(request), repeatable(request.request_id, "CreateSubscription", request)
        )
        return pb.CreateSubscriptionResponse(subscription=render_subscription(created), replayed=replayed)

    async def ApproveSubscription(
        self, request: pb.ApproveSubscriptionRequest, context: _Context
    ) -> pb.ApproveSubscriptionResponse:
        approved = await self._subscriptions.approve(*_key(request), request.etag, request.reason)
        return pb.ApproveSubscriptionResponse(subscription=render_subscription(approved))

    async def RejectSubscription(
        self, request: pb.RejectSubscriptionRequest, context: _Context
    ) -> pb.RejectSubscriptionResponse:
        check_reason(request)
        rejected = await self._subscriptions.reject(*_key(request), request.etag, request.reason)
        return pb.RejectSubscriptionResponse(subscription=render_subscription(rejected))

    async def GetSubscription(
        self, request: pb.GetSubscriptionRequest, context: _Context
    ) -> pb.GetSubscriptionResponse:
        return pb.GetSubscriptionResponse(subscription=render_subscription(await self._listings.get(*_key(request))))

    async def ListSubscriptions(
        self, request: pb.ListSubscriptionsRequest, context: _Context
    ) -> pb.ListSubscriptionsResponse:
        page, token = await self._listings.page(
            request.organization_id.lower(), read_filter(request), request.page_size, request.page_token
        )
        return pb.ListSubscriptionsResponse(subscriptions=map(render_subscription, page), next_page_token=token)

    async def ListDueSubscriptions(
        self, request: pb.ListDueSubscriptionsRequest, context: _Context
    ) -> pb.ListDueSubscriptionsResponse:
        page, token = await self._listings.due_page(
            read_due_before(request),
            set_aside=request.set_aside,
            size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListDueSubscriptionsResponse(subscriptions=map(render_subscription, page), next_page_token=token)

    async def RunPeriods(
        self, request: pb.RunPeriodsRequest, context: _Context
    ) -> AsyncIterator[pb.RunPeriodsResponse]:
        until = parse_optional_time("until_time", request.until_time, present=request.HasField("until_time"))
        async for report in self._period_run.report(until):
            yield pb.RunPeriodsResponse(
                due_count=report.due,
                done_count=report.counts.done,
                set_aside_count=report.counts.set_aside,
                left_count=report.counts.left,
            )

    async def ListSubscriptionEvents(
        self, request: pb.ListSubscriptionEventsRequest, context: _Context
    ) -> pb.ListSubscriptionEventsResponse:
        page, token = await self._listings.events(*_key(request), request.page_size, request.page_token)
        return pb.ListSubscriptionEventsResponse(events=map(render_event, page), next_page_token=token)

    async def UpdateSubscription(
        self, request: pb.UpdateSubscriptionRequest, context: _Context
    ) -> pb.UpdateSubscriptionResponse:
        updated = await self._subscriptions.update(*_key(request), request.etag, read_updates(request))
        return pb.UpdateSubscriptionResponse(subscription=render_subscription(updated))

    async def ChangePlan(self, request: pb.ChangePlanRequest, context: _Context) -> pb.ChangePlanResponse:
        changed = await self._plan_changes.change(
            read_plan_change(request), repeatable(request.request_id, "ChangePlan", request)
        )
        return render_plan_change(changed)

    async def WithdrawPlanChange(
        self, request: pb.WithdrawPlanChangeRequest, context: _Context
    ) -> pb.WithdrawPlanChangeResponse:
        after = await self._plan_changes.withdraw(*_key(request), request.etag)
        return pb.WithdrawPlanChangeResponse(subscription=render_subscription(after))

    async def PauseSubscription(
        self, request: pb.PauseSubscriptionRequest, context: _Context
    ) -> pb.PauseSubscriptionResponse:
        paused = await self._subscriptions.pause(*_key(request), request.etag, request.reason)
        return pb.PauseSubscriptionResponse(subscription=render_subscription(paused))

    async def ResumeSubscription(
        self, request: pb.ResumeSubscriptionRequest, context: _Context
    ) -> pb.ResumeSubscriptionResponse:
        resumed = await self._subscriptions.resume(*_key(request), request.etag, request.reason)
        return pb.ResumeSubscriptionResponse(subscription=render_subscription(resumed))

    async def SuspendSubscription(
        self, request: pb.SuspendSubscriptionRequest, context: _Context
    ) -> pb.SuspendSubscriptionResponse:
        check_reason(request)
        suspended = await self._subscriptions.suspend(*_key(request), request.etag, request.reason)
        return pb.SuspendSubscriptionResponse(subscription=render_subscription(suspended))

    async def RetryPayment(self, request: pb.RetryPaymentRequest, context: _Context) -> pb.RetryPaymentResponse:
        after = await self._subscriptions.retry_payment(*_key(request))
        return pb.RetryPaymentResponse(subscription=render_subscription(after))

    async def CancelSubscription(
        self, request: pb.CancelSubscriptionRequest, context: _Context
    ) -> pb.CancelSubscriptionResponse:
        cancelled = await self._subscriptions.cancel(
            *_key(request),
            request.etag,
            request.reason,
            at_period_end=request.timing == pb.CHANGE_TIMING_PERIOD_END,
        )
        return pb.CancelSubscriptionResponse(subscription=render_subscription(cancelled))

    async def WithdrawCancellation(
        self, request: pb.WithdrawCancellationRequest, context: _Context
    ) -> pb.WithdrawCancellationResponse:
        after = await self._subscriptions.withdraw_cancellation(*_key(request), request.etag)
        return pb.WithdrawCancellationResponse(subscription=render_subscription(after))

    async def GetEntitlements(
        self, request: pb.GetEntitlementsRequest, context: _Context
    ) -> pb.GetEntitlementsResponse:
        return await self._entitlements.get(request)

    async def SetEntitlementOverride(
        self, request: pb.SetEntitlementOverrideRequest, context: _Context
    ) -> pb.SetEntitlementOverrideResponse:
        return await self._entitlements.set_override(request)

    async def ListEntitlementOverrides(
        self, request: pb.ListEntitlementOverridesRequest, context: _Context
    ) -> pb.ListEntitlementOverridesResponse:
        return await self._entitlements.list_overrides(request)

    async def WatchEntitlements(
        self, request: pb.WatchEntitlementsRequest, context: _Context
    ) -> AsyncIterator[pb.WatchEntitlementsResponse]:
        async for message in self._entitlements.watch(request):
            yield message


class _OnSubscription(Protocol):
    """A request on one subscription."""

    @property
    def organization_id(self) -> str: ...

    @property
    def subscription_id(self) -> str: ...


def _key(request: _OnSubscription) -> tuple[str, str]:
    return request.organization_id.lower(), request.subscription_id.lower()
