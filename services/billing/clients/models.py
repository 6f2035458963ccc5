"""Asks metering which models there are."""

from typing import Final

import grpc

from libs.common.errors import Unavailable
from tollhouse.metering.v1 import model_pb2 as pb
from tollhouse.metering.v1 import model_pb2_grpc as rpc

_ASK_WITHIN_S: Final = 1.0
_KNOWN_MAX: Final = 10_000


class Models:
    """Says whether models are in the catalogue; those that are stay there, so they are remembered."""

    def __init__(self, metering: grpc.aio.Channel) -> None:
        self._models: rpc.ModelServiceStub = rpc.ModelServiceStub(metering)
        self._known: dict[str, None] = {}

    async def is_known(self, model: str) -> bool:
        """Return whether there is a model of this name.

        Raises:
            Unavailable: metering cannot be asked.
        """
        if model in self._known:
            return True
        try:
            # Waits for a connection, which may be due again in a moment: metering has only just started.
            request = pb.GetModelRequest(model_id=model)
            await self._models.GetModel(request, timeout=_ASK_WITHIN_S, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
                return False
            raise Unavailable(dependency="metering") from error
        self._known[model] = None
        if len(self._known) > _KNOWN_MAX:
            del self._known[next(iter(self._known))]
        return True
