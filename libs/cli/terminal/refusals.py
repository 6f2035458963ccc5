"""A refusal of a service as one line for the person at the terminal."""

from typing import Final

import grpc
from google.rpc import error_details_pb2

from libs.common.status import error_info, status_in

_MISUSE: Final = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE}


def refusal_line(error: grpc.aio.AioRpcError) -> str:
    """Return the reason, what the service says, and the facts its words leave out."""
    info = error_info(error)
    message = " ".join((error.details() or "").split())
    if info is None:
        return f"The call was refused: {error.code().name}: {message}"
    facts = {name: value for name, value in sorted(info.metadata.items()) if name == "field" or value not in message}
    facts |= _resource_of(error)
    told = ", ".join(f"{name}: {value}" for name, value in facts.items())
    return f"{info.reason}: {message}" + (f" ({told})" if told else "")


def exit_status_of(error: grpc.aio.AioRpcError) -> int:
    """Return 2 where the command was given something no service could work with, as for any other misuse; else 1."""
    return 2 if error.code() in _MISUSE else 1


def _resource_of(error: grpc.aio.AioRpcError) -> dict[str, str]:
    status = status_in(error)
    for detail in status.details if status else ():
        resource = error_details_pb2.ResourceInfo()
        if detail.Unpack(resource) and resource.resource_name:
            return {resource.resource_type: resource.resource_name}
    return {}
