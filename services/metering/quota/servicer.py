"""QuotaService over gRPC: reads requests, calls the use cases, renders responses."""

from collections.abc import Mapping
from functools import partial

import grpc

from libs.common.amount import format_amount
from libs.common.pages import encode_page_token, page_size, text_in_token, that_fit
from libs.common.status import HTTP_STATUS, RETRY_AFTER
from libs.common.timestamps import render_time
from libs.common.validation import Reader
from services.metering.model.catalogue import Catalogue
from services.metering.quota.alerts import Alerts
from services.metering.quota.allocation_parsing import read_ask, units_named
from services.metering.quota.allocations import Allocations
from services.metering.quota.decisions import retry_after_s
from services.metering.quota.domain import SPEND
from services.metering.quota.limit_usage import LimitUsage, Position
from services.metering.quota.limits import Limits
from services.metering.quota.parsing import (
    alert_token,
    check_usage_asked,
    needs_newer_catalogue,
    read_alert_range,
    read_alert_token,
    read_filters,
    read_setting,
    read_subscriptions_asked,
    read_usage_token,
    usage_fingerprint,
    usage_token,
)
from services.metering.quota.rendering import (
    render_alert,
    render_limit,
    render_status,
    render_statuses,
    render_subscription,
)
from services.metering.quota.subscription_usage import SUBSCRIPTIONS_MAX, Listed, SubscriptionUsage
from tollhouse.metering.v1 import quota_pb2 as pb
from tollhouse.metering.v1 import quota_pb2_grpc as rpc


class QuotaServicer(rpc.QuotaServiceServicer):
    """Implements QuotaService."""

    def __init__(
        self,
        limits: Limits,
        limit_usage: LimitUsage,
        subscription_usage: SubscriptionUsage,
        alerts: Alerts,
        allocations: Allocations,
        catalogue: Catalogue,
    ) -> None:
        self._limits = limits
        self._limit_usage = limit_usage
        self._subscription_usage = subscription_usage
        self._alerts = alerts
        self._allocations = allocations
        self._catalogue = catalogue

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "GetUsageAgainstLimits": check_usage_asked,
            "SetLimit": partial(read_setting, catalogue=self._catalogue),
            "AllocateQuota": lambda request: read_ask(request, self._allocations.units),
        }

    async def SetLimit(self, request: pb.SetLimitRequest, context: grpc.aio.ServicerContext) -> pb.SetLimitResponse:
        organization_id = request.organization_id.lower()
        await self._catalogue.refresh()
        if needs_newer_catalogue(request, self._catalogue):
            await self._catalogue.refresh_for_unknown()
        entry = await self._limits.set(organization_id, read_setting(request, self._catalogue))
        return pb.SetLimitResponse(limit=render_limit(organization_id, entry))

    async def GetLimit(self, request: pb.GetLimitRequest, context: grpc.aio.ServicerContext) -> pb.GetLimitResponse:
        organization_id = request.organization_id.lower()
        entry = await self._limits.get(organization_id, request.name)
        return pb.GetLimitResponse(limit=render_limit(organization_id, entry))

    async def ListLimits(
        self, request: pb.ListLimitsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListLimitsResponse:
        organization_id = request.organization_id.lower()
        fingerprint = f"limits/{organization_id}"
        size = page_size(request.page_size)
        after = text_in_token(request.page_token, fingerprint) or ""
        entries = await self._limits.page(organization_id, after, size + 1)
        limits = that_fit(render_limit(organization_id, entry) for entry in entries[:size])
        token = encode_page_token(limits[-1].name, fingerprint=fingerprint) if len(limits) < len(entries) else ""
        return pb.ListLimitsResponse(limits=limits, next_page_token=token)

    async def DeleteLimit(
        self, request: pb.DeleteLimitRequest, context: grpc.aio.ServicerContext
    ) -> pb.DeleteLimitResponse:
        await self._limits.delete(request.organization_id.lower(), request.name, request.etag)
        return pb.DeleteLimitResponse()

    async def GetUsageAgainstLimits(
        self, request: pb.GetUsageAgainstLimitsRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetUsageAgainstLimitsResponse:
        if request.by_subscription:
            return await self._usage_by_subscription(request)
        fingerprint = usage_fingerprint(request)
        standings, following = await self._limit_usage.page(
            request.organization_id.lower(),
            read_filters(request),
            read_usage_token(request.page_token, fingerprint),
            page_size(request.page_size),
        )
        limits = that_fit(render_status(place, standing) for place, standing in standings)
        if len(limits) < len(standings):
            following = Position(limits[-1].name, limits[-1].scope_value)
        token = usage_token(following, fingerprint) if following else ""
        return pb.GetUsageAgainstLimitsResponse(limits=limits, next_page_token=token)

    async def _usage_by_subscription(
        self, request: pb.GetUsageAgainstLimitsRequest
    ) -> pb.GetUsageAgainstLimitsResponse:
        asked = read_subscriptions_asked(request)
        if asked is None:
            return pb.GetUsageAgainstLimitsResponse()
        await self._catalogue.refresh()
        size = min(page_size(request.page_size), SUBSCRIPTIONS_MAX)
        organization_id = request.organization_id.lower()
        while True:
            found, token = await self._subscription_usage.page(organization_id, asked, size, request.page_token)
            rendered = that_fit(render_subscription(one, self._provider(one)) for one in found)
            if len(rendered) == len(found):
                return pb.GetUsageAgainstLimitsResponse(subscriptions=rendered, next_page_token=token)
            # Billing's page must end where this one does.
            size = found[len(rendered)].number

    def _provider(self, listed: Listed) -> str:
        model = self._catalogue.model(listed.subscription.subject.model)
        return "" if model is None else model.provider

    async def ListLimitAlerts(
        self, request: pb.ListLimitAlertsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListLimitAlertsResponse:
        start_time, end_time = read_alert_range(request, self._alerts.now())
        fingerprint = f"alerts/{request.organization_id.lower()}"
        size = page_size(request.page_size)
        found = await self._alerts.page(
            request.organization_id.lower(),
            start_time=start_time,
            end_time=end_time,
            after=read_alert_token(request.page_token, fingerprint),
            limit=size + 1,
        )
        alerts = that_fit(map(render_alert, found[:size]))
        token = alert_token(found[len(alerts) - 1], fingerprint) if len(alerts) < len(found) else ""
        return pb.ListLimitAlertsResponse(alerts=alerts, next_page_token=token)

    async def AllocateQuota(
        self, request: pb.AllocateQuotaRequest, context: grpc.aio.ServicerContext
    ) -> pb.AllocateQuotaResponse:
        await self._allocations.know_units(units_named(request))
        answer = await self._allocations.allocate(read_ask(request, self._allocations.units))
        if answer.refused is not None:
            seconds = retry_after_s(answer.refused)
            waiting = () if seconds is None else ((RETRY_AFTER, str(seconds)),)
            context.set_trailing_metadata(((HTTP_STATUS, "429"), *waiting))
        response = pb.AllocateQuotaResponse(
            allocated=answer.allocated,
            limits=render_statuses(answer.limits, answer.refused),
            replayed=answer.replayed,
        )
        for metric, value in answer.amounts:
            amount = response.allocated_amounts.add(metric=metric, value=format_amount(value))
            if metric == SPEND:
                amount.currency_code = answer.currency_code
        if answer.lease_end_time is not None:
            response.lease_end_time.CopyFrom(render_time(answer.lease_end_time))
        return response

    async def ReleaseQuota(
        self, request: pb.ReleaseQuotaRequest, context: grpc.aio.ServicerContext
    ) -> pb.ReleaseQuotaResponse:
        released = await self._allocations.release(request.organization_id.lower(), request.operation_id)
        return pb.ReleaseQuotaResponse(replayed=released.replayed, lapsed=released.lapsed)
