"""The SQL statements on a table of requests."""

from datetime import datetime
from typing import Final

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.repeats.tables import RequestsTable

_LOCK: Final = text("SELECT pg_advisory_xact_lock(hashtextextended(:schema || '.request.' || :request_id, 0))")


async def lock_request(connection: AsyncConnection, requests: RequestsTable, request_id: str) -> None:
    """Take an advisory lock on the request id until the transaction ends, so that repeats wait for each other."""
    await connection.execute(_LOCK, {"schema": requests.schema or "", "request_id": request_id})


async def find_request(
    connection: AsyncConnection, requests: RequestsTable, request_id: str
) -> tuple[str, bytes, bytes] | None:
    """Return the RPC, request and response stored under a request id; by primary key."""
    c = requests.c
    row = (await connection.execute(select(c.rpc, c.request, c.response).where(c.request_id == request_id))).first()
    return None if row is None else (row.rpc, row.request, row.response)


async def keep_request(
    connection: AsyncConnection,
    requests: RequestsTable,
    *,
    request_id: str,
    rpc: str,
    request: bytes,
    response: bytes,
    now: datetime,
) -> None:
    """Add a request with its response; the request id must be locked."""
    await connection.execute(
        insert(requests).values(request_id=request_id, rpc=rpc, request=request, response=response, create_time=now)
    )
