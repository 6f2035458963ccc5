"""A refused call as one line for the person at the terminal."""

from typing import Final

import grpc
from google.rpc import error_details_pb2

from libs.common.status import error_info, status_in

_MISUSE: Final = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE}


def refusal_line(error: grpc.aio.AioRpcError) -> str:
    """Return the reason, the message, and the facts that the message does not contain."""
    info = error_info(error)
    message = " ".join((error.details() or "").split())
    if info is None:
        return f"The call was refused: {error.code().name}: {message}"
    facts = {name: value for name, value in sorted(info.metadata.items()) if name == "field" or value not in message}
    facts |= _resource_of(error)
    told = ", ".join(f"{name}: {value}" for name, value in facts.items())
    return f"{info.reason}: {message}" + (f" ({told})" if told else "")


def exit_status_of(error: grpc.aio.AioRpcError) -> int:
    """Return 2 if the arguments were invalid, as for any other wrong use; else 1."""
    return 2 if error.code() in _MISUSE else 1


def _resource_of(error: grpc.aio.AioRpcError) -> dict[str, str]:
    status = status_in(error)
    for detail in status.details if status else ():
        resource = error_details_pb2.ResourceInfo()
        if detail.Unpack(resource) and resource.resource_name:
            return {resource.resource_type: resource.resource_name}
    return {}
