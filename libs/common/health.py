"""The standard health service, with the `List` that the library's servicer leaves out."""

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2


class HealthServicer(health.aio.HealthServicer):
    """Says of the whole server, and of each of its services, whether it serves."""

    async def List(self, request: Message, context: grpc.aio.ServicerContext) -> Message:  # noqa: N802 -- gRPC's name.
        """Return the status of every service."""
        # The library's published types know neither its newer messages nor its fields.
        response = health_pb2.HealthListResponse()  # type: ignore[attr-defined]
        for name, status in self._server_status.items():  # type: ignore[attr-defined]
            response.statuses[name].status = status
        listed: Message = response
        return listed
