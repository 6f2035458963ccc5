"""Does the work of a request once: a repeat gets the response that was stored with the work."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import RequestIdReused
from libs.common.repeats import store
from libs.common.repeats.tables import RequestsTable


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A request that is carried out once however often it is sent."""

    request_id: str
    """Empty where the caller gave none; then the request is not stored."""
    rpc: str
    request: bytes
    differing_field: Callable[[bytes], str]
    """Returns the first field in which the stored request, given serialized, differs from this one."""


async def once(
    home: Database,
    requests: RequestsTable,
    clock: Clock,
    repeatable: Repeatable,
    work: Callable[[Transaction], Awaitable[bytes]],
) -> tuple[bytes, bool]:
    """Do the work in one transaction of `home`, which also writes to `requests`.

    Return the serialized response, and whether it is that of an earlier request with the same id.

    Raises:
        RequestIdReused: the request id was sent before with another body.
    """
    async with home.transaction() as connection:
        if repeatable.request_id:
            await store.lock_request(connection, requests, repeatable.request_id)
            known = await store.find_request(connection, requests, repeatable.request_id)
            if known is not None:
                return known_answer(repeatable, *known), True
        response = await work(connection)
        if repeatable.request_id:
            await store.keep_request(
                connection,
                requests,
                request_id=repeatable.request_id,
                rpc=repeatable.rpc,
                request=repeatable.request,
                response=response,
                now=clock.now(),
            )
    return response, False


def known_answer(repeatable: Repeatable, rpc: str, request: bytes, response: bytes) -> bytes:
    """Return the stored response of an earlier request with the same id.

    Raises:
        RequestIdReused: it was another RPC, or had another body.
    """
    if rpc != repeatable.rpc:
        raise RequestIdReused(request_id=repeatable.request_id, field="rpc")
    if request != repeatable.request:
        raise RequestIdReused(request_id=repeatable.request_id, field=repeatable.differing_field(request))
    return response
