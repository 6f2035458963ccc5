"""SystemConfigurationService over gRPC."""

from collections.abc import Mapping

import grpc

from libs.common.timestamps import render_optional_time
from libs.common.validation import Reader
from services.identity.configuration import Configuration, change_of
from services.identity.system_configuration.system_configurations import SystemConfigurations
from tollhouse.identity.v1 import system_configuration_pb2 as pb
from tollhouse.identity.v1 import system_configuration_pb2_grpc as rpc


class SystemConfigurationServicer(rpc.SystemConfigurationServiceServicer):
    """Reads requests into commands of the use case, and renders its results."""

    def __init__(self, configurations: SystemConfigurations) -> None:
        self._configurations = configurations

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "UpdateSystemConfiguration": lambda request: change_of(request.entries, request.removed_keys),
        }

    async def GetSystemConfiguration(
        self, request: pb.GetSystemConfigurationRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetSystemConfigurationResponse:
        return pb.GetSystemConfigurationResponse(configuration=_render(await self._configurations.get()))

    async def UpdateSystemConfiguration(
        self, request: pb.UpdateSystemConfigurationRequest, context: grpc.aio.ServicerContext
    ) -> pb.UpdateSystemConfigurationResponse:
        change = change_of(request.entries, request.removed_keys)
        configuration = await self._configurations.update(change, etag=request.etag)
        return pb.UpdateSystemConfigurationResponse(configuration=_render(configuration))


def _render(configuration: Configuration) -> pb.SystemConfiguration:
    return pb.SystemConfiguration(
        entries=configuration.entries,
        update_time=render_optional_time(configuration.update_time),
        etag=configuration.etag,
    )
