"""RetentionService over gRPC: reads requests, calls the use cases, renders responses."""

from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from typing import Final, Protocol

import grpc

from libs.common.amount import parse_amount, render_amount
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.ids import NIL
from libs.common.pages import encode_page_token, page_size, text_in_token, time_in_key
from libs.common.timestamps import EPOCH, render_optional_time, render_time, time_text
from libs.common.validation import Reader
from services.metering.retention.domain import Drop, Month, Numbers, Retention, parse_month
from services.metering.retention.drops import Drops
from services.metering.retention.forget_store import Forgotten
from services.metering.retention.forgetting import Forgetting
from services.metering.retention.policies import Policies
from services.metering.usage.dropped_store import month_text
from tollhouse.metering.v1 import retention_pb2 as pb
from tollhouse.metering.v1 import retention_pb2_grpc as rpc

_MONTHS_MIN: Final = 2


class _OfOrganization(Protocol):
    @property
    def organization_id(self) -> str: ...


class RetentionServicer(rpc.RetentionServiceServicer):
    """Serves retention."""

    def __init__(self, policies: Policies, drops: Drops, forgetting: Forgetting) -> None:
        self._policies = policies
        self._drops = drops
        self._forgetting = forgetting

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {"SetUsageRetention": _months, "DropUsageMonth": _numbers}

    async def GetUsageRetention(
        self, request: pb.GetUsageRetentionRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetUsageRetentionResponse:
        organization_id = _organization(request)
        retention = await self._policies.get(organization_id)
        return pb.GetUsageRetentionResponse(retention=_render_retention(organization_id, retention))

    async def SetUsageRetention(
        self, request: pb.SetUsageRetentionRequest, context: grpc.aio.ServicerContext
    ) -> pb.SetUsageRetentionResponse:
        organization_id = _organization(request)
        retention = await self._policies.set(organization_id, _months(request))
        return pb.SetUsageRetentionResponse(retention=_render_retention(organization_id, retention))

    async def ListUsageMonths(
        self, request: pb.ListUsageMonthsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListUsageMonthsResponse:
        organization_id = _organization(request)
        fingerprint = f"usage-months/{organization_id}"
        after = text_in_token(request.page_token, fingerprint)
        first = time_in_key(after) if after else EPOCH
        found, following = await self._policies.months(organization_id, first, page_size(request.page_size))
        token = "" if following is None else encode_page_token(time_text(following), fingerprint=fingerprint)
        months = [_render_month(organization_id, month, is_over=is_over) for month, is_over in found]
        return pb.ListUsageMonthsResponse(months=months, next_page_token=token)

    async def DigestUsageMonth(
        self, request: pb.DigestUsageMonthRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.DigestUsageMonthResponse]:
        async for piece in self._drops.digest(_organization(request), parse_month(request.month)):
            if isinstance(piece, int):
                yield pb.DigestUsageMonthResponse(rows_read=piece)
                continue
            yield pb.DigestUsageMonthResponse(
                done=True,
                usage_count=piece.usage_count,
                totals=[render_amount(code, total) for code, total in piece.costs.items()],
                digest=piece.digest,
            )

    async def DropUsageMonth(
        self, request: pb.DropUsageMonthRequest, context: grpc.aio.ServicerContext
    ) -> pb.DropUsageMonthResponse:
        month = parse_month(request.month)
        drop = await self._drops.ask(
            _organization(request), month, _numbers(request), validate_only=request.validate_only
        )
        return pb.DropUsageMonthResponse(drop=_render_drop(drop, 0))

    async def GetUsageDrop(
        self, request: pb.GetUsageDropRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetUsageDropResponse:
        drop, dropped = await self._drops.get(_organization(request), parse_month(request.month))
        return pb.GetUsageDropResponse(drop=_render_drop(drop, dropped))

    async def ForgetUser(
        self, request: pb.ForgetUserRequest, context: grpc.aio.ServicerContext
    ) -> pb.ForgetUserResponse:
        forgotten = await self._forgetting.ask(request.user_id.lower())
        return pb.ForgetUserResponse(forgotten_user=_render_forgotten(forgotten))

    async def GetForgottenUser(
        self, request: pb.GetForgottenUserRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetForgottenUserResponse:
        forgotten = await self._forgetting.get(request.user_id.lower())
        return pb.GetForgottenUserResponse(forgotten_user=_render_forgotten(forgotten))


def _organization(request: _OfOrganization) -> str:
    return request.organization_id.lower() or NIL


def _months(request: pb.SetUsageRetentionRequest) -> int | None:
    """Return the retention to be set; None for that of the platform.

    Raises:
        InvalidArgument: it is too short, or something is given that contradicts `inherit`.
    """
    violations: list[FieldViolation] = []
    if 0 < request.months < _MONTHS_MIN:
        violations.append(FieldViolation("months", "must be 0, or from 2 to 1200"))
    if request.inherit and request.months:
        violations.append(FieldViolation("months", "must be 0 with inherit"))
    if request.inherit and not request.organization_id:
        violations.append(FieldViolation("inherit", "is for an organization only"))
    if violations:
        raise InvalidArgument(violations)
    return None if request.inherit else request.months


def _numbers(request: pb.DropUsageMonthRequest) -> Numbers:
    """Return the numbers of the export.

    Raises:
        InvalidArgument: a total is no amount, or a currency is given twice.
    """
    violations: list[FieldViolation] = []
    totals: dict[str, Decimal] = {}
    for place, total in enumerate(request.totals):
        value = parse_amount(f"totals[{place}]", total, violations, minimum=Decimal(0))
        if total.currency_code in totals:
            violations.append(FieldViolation(f"totals[{place}].currency_code", "is given twice"))
        totals[total.currency_code] = value
    if violations:
        raise InvalidArgument(violations)
    return Numbers(request.usage_count, totals, request.digest)


def _render_retention(organization_id: str, retention: Retention) -> pb.UsageRetention:
    return pb.UsageRetention(
        organization_id=_shown(organization_id),
        months=retention.months,
        inherited=retention.inherited,
        update_time=render_optional_time(retention.update_time),
    )


def _render_month(organization_id: str, month: Month, *, is_over: bool) -> pb.UsageMonth:
    is_left = month.usages or month.size_bytes
    state = "KEPT"
    if month.is_dropping:
        state = "DROPPING"
    elif month.was_dropped and not is_left:
        state = "DROPPED"
    elif month.dropped:
        state = "PARTLY_DROPPED"
    return pb.UsageMonth(
        organization_id=_shown(organization_id),
        month=month_text(month.month),
        state=pb.UsageMonthState.Value(f"USAGE_MONTH_STATE_{state}"),
        usage_count=month.usages + month.dropped,
        dropped_count=month.dropped,
        size_bytes=month.size_bytes,
        expired=is_over,
    )


def _render_drop(drop: Drop, dropped: int) -> pb.UsageDrop:
    return pb.UsageDrop(
        organization_id=_shown(drop.organization_id),
        month=month_text(drop.month),
        state=pb.UsageDropState.Value(f"USAGE_DROP_STATE_{drop.state or 'UNSPECIFIED'}"),
        usage_count=drop.numbers.usage_count,
        totals=[render_amount(code, total) for code, total in drop.numbers.costs.items()],
        digest=drop.numbers.digest,
        dropped_count=dropped,
        refusal_reason=drop.refusal_reason or "",
        refusal_message=drop.refusal_message or "",
        actor=drop.actor,
        create_time=render_time(drop.create_time),
        update_time=render_time(drop.update_time),
    )


def _render_forgotten(forgotten: Forgotten) -> pb.ForgottenUser:
    return pb.ForgottenUser(
        user_id=forgotten.user_id,
        done=forgotten.done_time is not None,
        emptied_count=forgotten.emptied,
        create_time=render_time(forgotten.create_time),
        done_time=render_optional_time(forgotten.done_time),
    )


def _shown(organization_id: str) -> str:
    return "" if organization_id == NIL else organization_id
