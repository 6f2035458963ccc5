"""Envoy's Authorization over gRPC."""

import grpc
from envoy.service.auth.v3 import external_auth_pb2 as pb
from envoy.service.auth.v3 import external_auth_pb2_grpc as rpc

from services.metering.external_auth.checks import Checks
from services.metering.external_auth.parsing import read_check
from services.metering.external_auth.rendering import render


class ExternalAuthServicer(rpc.AuthorizationServicer):
    """Implements Authorization."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._proxies = checks.configuration.proxies

    async def Check(self, request: pb.CheckRequest, context: grpc.aio.ServicerContext) -> pb.CheckResponse:
        configuration = self._checks.configuration
        asked = read_check(
            request,
            key_headers=configuration.key_headers,
            remove_key=configuration.remove_key,
            proxies=self._proxies,
        )
        return render(await self._checks.check(asked), asked.removed)
