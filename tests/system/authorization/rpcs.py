"""All RPCs: as the protos declare them, and as the running services list them by reflection."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2

from scripts.access_page import services
from tollhouse.common.v1 import access_pb2

PACKAGE = "tollhouse."


@dataclass(frozen=True)
class Rpc:
    """One RPC of one running service. An RPC that every service serves occurs once for each service."""

    context: str
    method: MethodDescriptor

    def __str__(self) -> str:
        return f"{self.context}: {self.name}"

    def __hash__(self) -> int:
        return hash((self.context, self.method.full_name))

    @property
    def name(self) -> str:
        """As in `identity.v1.UserService.GetUser`."""
        return str(self.method.full_name).removeprefix(PACKAGE)

    @property
    def verb(self) -> str:
        return str(self.method.name)

    @property
    def access(self) -> access_pb2.Access:
        return self.method.GetOptions().Extensions[access_pb2.access]

    @property
    def only_reads(self) -> bool:
        return bool(self.method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS)

    @property
    def streams(self) -> bool:
        return bool(self.method.client_streaming or self.method.server_streaming)

    @property
    def fields(self) -> Mapping[str, FieldDescriptor]:
        """The fields of its request, by name."""
        return self.method.input_type.fields_by_name

    def new_request(self) -> Message:
        return GetMessageClass(self.method.input_type)()


def declared() -> dict[str, MethodDescriptor]:
    """Every method that our protos declare, by its full name, whether or not a service serves it."""
    return {method.full_name: method for service in services() for method in service.methods}


async def served(endpoints: Mapping[str, str], token: str) -> list[Rpc]:
    """Every RPC of ours that the running services list by reflection."""
    by_service = {service.full_name: service for service in services()}
    return [
        Rpc(context, method)
        for context, target in endpoints.items()
        for name in await _service_names(target, token)
        if name.startswith(PACKAGE)
        for method in by_service[name].methods
    ]


async def _service_names(target: str, token: str) -> list[str]:
    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async with grpc.aio.insecure_channel(target) as channel:
        asking = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        metadata = (("authorization", f"Bearer {token}"),)
        async for answer in asking(ask(), metadata=metadata, timeout=10):
            return [service.name for service in answer.list_services_response.service]
    return []
