"""The standard health service, with the `List` that the library leaves out."""

import grpc
from grpc_health.v1 import health
from grpc_health.v1 import health_pb2 as pb


class HealthServicer(health.aio.HealthServicer):
    """Says of the whole server, and of each of its services, whether it serves."""

    async def List(self, request: pb.HealthListRequest, context: grpc.aio.ServicerContext) -> pb.HealthListResponse:
        """Return the status of every service."""
        statuses = {name: pb.HealthCheckResponse(status=status) for name, status in self._server_status.items()}
        return pb.HealthListResponse(statuses=statuses)
