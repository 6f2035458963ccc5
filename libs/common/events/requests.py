"""Request ids: a change that names one can be repeated without being made twice.

Only a digest of each field is stored: enough to tell another request, and to name the field that differs.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime

from libs.common.database import RawConnection
from libs.common.errors import RequestIdReused
from libs.common.events import store
from libs.common.events.store import Request


def request_of(organization_id: str, method: str, request_id: str, body: Mapping[str, object]) -> Request | None:
    """Return a request that is carried out once; None without an id."""
    if not request_id:
        return None
    digests = {name: _digest(value) for name, value in body.items()}
    return Request(organization_id, method, request_id, digests)


async def earlier_outcome(connection: RawConnection, request: Request | None, now: datetime) -> str | None:
    """Claim the id of a request; return what came of the request that had it before, or None where there is none.

    Raises:
        RequestIdReused: that request had another body.
    """
    if request is None:
        return None
    earlier = await store.claim_request(connection, request, now)
    if earlier is None:
        return None
    digests, outcome = earlier
    for name in sorted(digests.keys() | request.field_digests.keys()):
        if digests.get(name) != request.field_digests.get(name):
            raise RequestIdReused(request_id=request.request_id, field=name)
    return outcome


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]
