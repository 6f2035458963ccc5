"""The contents of a refusal, in a form that is easy to compare."""

from collections.abc import Awaitable

import grpc
import pytest

from libs.common.status import error_info, field_violations


async def refused(call: Awaitable[object]) -> tuple[str, str]:
    """Return the status code and the reason with which a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    info = error_info(error.value)
    return error.value.code().name, info.reason if info else ""


async def refused_field(call: Awaitable[object]) -> tuple[str, str]:
    """Return the reason with which a call is refused, and the field it names as a fact."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    info = error_info(error.value)
    return (info.reason, info.metadata["field"]) if info else ("", "")


async def violated_fields(call: Awaitable[object]) -> set[str]:
    """Return the fields that the refusal of an invalid request names."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    return set(field_violations(error.value))


NOT_FOUND = ("NOT_FOUND", "NOT_FOUND")
DENIED = ("PERMISSION_DENIED", "PERMISSION_DENIED")
ROLE_NOT_HELD = ("PERMISSION_DENIED", "ROLE_NOT_HELD")
STALE = ("ABORTED", "STALE_ETAG")
