"""Request ids: a create request that names one can be repeated without creating anything twice.

Only a digest of each field is stored. It is enough to detect another body and to name the field that differs, without
keeping what people wrote.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.errors import RequestIdReused
from libs.common.ids import NIL
from services.identity.tables import requests

NO_ORGANIZATION: Final = NIL

Field = str | int | None | datetime | tuple[str, ...] | Mapping[str, str]


async def claim_request(
    tx: AsyncConnection,
    *,
    organization_id: str,
    method: str,
    request_id: str,
    body: Mapping[str, Field],
    resource_id: str,
    now: datetime,
) -> str | None:
    """Claim the request id for a resource that is about to be created; return the id of an earlier one, or None.

    The insert waits for a concurrent call with the same id, so that exactly one of them creates the resource.

    Raises:
        RequestIdReused: the id was sent before with another body.
    """
    if not request_id:
        return None
    digests = {name: _digest(value) for name, value in body.items()}
    # One row by primary key; the primary key is what makes the second call wait.
    claimed = await tx.execute(
        insert(requests)
        .values(
            organization_id=organization_id,
            method=method,
            request_id=request_id,
            field_digests=digests,
            resource_id=resource_id,
            create_time=now,
        )
        .on_conflict_do_nothing(constraint="requests_pkey")
        .returning(requests.c.resource_id)
    )
    if claimed.first() is not None:
        return None
    earlier = (
        await tx.execute(
            select(requests.c.field_digests, requests.c.resource_id).where(
                requests.c.organization_id == organization_id,
                requests.c.method == method,
                requests.c.request_id == request_id,
            )
        )
    ).one()
    for name in sorted(digests.keys() | earlier.field_digests.keys()):
        if digests.get(name) != earlier.field_digests.get(name):
            raise RequestIdReused(request_id=request_id, field=name)
    return str(earlier.resource_id)


def _digest(value: Field) -> str:
    plain = dict(value) if isinstance(value, Mapping) else str(value) if isinstance(value, datetime) else value
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]
