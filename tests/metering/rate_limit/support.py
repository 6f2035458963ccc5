"""Requests as Envoy sends them, and the configuration of the tests."""

from collections.abc import Mapping
from typing import Final

from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.service.ratelimit.v3 import rls_pb2 as pb
from envoy.service.ratelimit.v3 import rls_pb2_grpc as rpc

from tests.metering.support import Metering

OK: Final = pb.RateLimitResponse.OK
OVER_LIMIT: Final = pb.RateLimitResponse.OVER_LIMIT
Unit: Final = pb.RateLimitResponse.RateLimit

RULES: Final = """
{
  "unknown": "%s",
  "rules": [
    {"domain": "edge", "entries": [{"key": "organization", "field": "organization_id"}]},
    {
      "domain": "edge",
      "entries": [{"key": "organization", "field": "organization_id"}, {"key": "user", "field": "user_id"}]
    },
    {
      "domain": "edge",
      "entries": [{"key": "organization", "field": "organization_id"}, {"key": "model", "field": "model"}]
    },
    {
      "domain": "edge",
      "entries": [{"key": "organization", "field": "organization_id"}, {"key": "team", "field": "labels.team"}]
    },
    {
      "domain": "edge",
      "entries": [{"key": "organization", "field": "organization_id"}, {"key": "generic_key", "value": "tokens"}],
      "metric": "total_tokens"
    },
    {
      "domain": "own",
      "entries": [{"key": "generic_key", "value": "all"}],
      "organization_id": "019a0000-0000-7000-8000-00000000000a"
    }
  ]
}
"""


def descriptor(organization_id: str, hits: int | None = None, **entries: str) -> ratelimit_pb2.RateLimitDescriptor:
    """Return a descriptor of an organization; without one where the id is empty."""
    named: Mapping[str, str] = ({"organization": organization_id} if organization_id else {}) | entries
    made = ratelimit_pb2.RateLimitDescriptor()
    for key, value in named.items():
        made.entries.add(key=key, value=value)
    if hits is not None:
        made.hits_addend.value = hits
    return made


async def ask(
    metering: Metering, *descriptors: ratelimit_pb2.RateLimitDescriptor, hits: int = 0, domain: str = "edge"
) -> pb.RateLimitResponse:
    request = pb.RateLimitRequest(domain=domain, descriptors=descriptors, hits_addend=hits)
    stub: rpc.RateLimitServiceStub = rpc.RateLimitServiceStub(metering.channel)
    return await stub.ShouldRateLimit(request, metadata=metering.gateway)


def codes(answer: pb.RateLimitResponse) -> tuple[int, list[int]]:
    return answer.overall_code, [status.code for status in answer.statuses]
