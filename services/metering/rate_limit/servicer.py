"""Envoy's RateLimitService over gRPC."""

from decimal import Decimal
from typing import Final

import grpc
from envoy.service.ratelimit.v3 import rls_pb2 as pb
from envoy.service.ratelimit.v3 import rls_pb2_grpc as rpc

from libs.common.errors import FieldViolation, InvalidArgument
from services.metering.quota.domain import Window
from services.metering.rate_limit.decisions import Status
from services.metering.rate_limit.rate_limits import Descriptor, RateLimits

_UNITS: Final = {
    Window.MINUTE: pb.RateLimitResponse.RateLimit.MINUTE,
    Window.HOUR: pb.RateLimitResponse.RateLimit.HOUR,
    Window.DAY: pb.RateLimitResponse.RateLimit.DAY,
    Window.WEEK: pb.RateLimitResponse.RateLimit.WEEK,
    Window.MONTH: pb.RateLimitResponse.RateLimit.MONTH,
}
_UINT32_MAX: Final = 2**32 - 1


class RateLimitServicer(rpc.RateLimitServiceServicer):
    """Implements RateLimitService."""

    def __init__(self, rate_limits: RateLimits) -> None:
        self._rate_limits = rate_limits

    async def ShouldRateLimit(
        self, request: pb.RateLimitRequest, context: grpc.aio.ServicerContext
    ) -> pb.RateLimitResponse:
        statuses = await self._rate_limits.decide(request.domain, _read(request))
        response = pb.RateLimitResponse(overall_code=_code(all(status.passes for status in statuses)))
        for status in statuses:
            _fill(response.statuses.add(), status)
        return response


def _read(request: pb.RateLimitRequest) -> list[Descriptor]:
    violations = [
        FieldViolation(f"descriptors[{number}].limit", "must not be given: limits are set with SetLimit alone")
        for number, one in enumerate(request.descriptors)
        if one.HasField("limit")
    ]
    if violations:
        raise InvalidArgument(violations)
    return [
        Descriptor(
            [(entry.key, entry.value) for entry in one.entries],
            Decimal(one.hits_addend.value if one.HasField("hits_addend") else request.hits_addend or 1),
        )
        for one in request.descriptors
    ]


def _fill(rendered: pb.RateLimitResponse.DescriptorStatus, status: Status) -> None:
    rendered.code = _code(status.passes)
    if status.limit is None:
        return
    rendered.current_limit.name = status.limit.name
    rendered.current_limit.requests_per_unit = _whole(status.maximum)
    rendered.current_limit.unit = _UNITS.get(status.limit.shape.window, pb.RateLimitResponse.RateLimit.UNKNOWN)
    rendered.limit_remaining = _whole(status.left)
    if status.reset is not None:
        rendered.duration_until_reset.FromTimedelta(status.reset)


def _code(passes: bool) -> pb.RateLimitResponse.Code.ValueType:
    return pb.RateLimitResponse.OK if passes else pb.RateLimitResponse.OVER_LIMIT


def _whole(value: Decimal) -> int:
    return min(int(value), _UINT32_MAX)
