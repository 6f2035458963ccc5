"""Changes of the catalogue that are carried out once, however often their request is sent."""

from collections.abc import Awaitable, Callable

from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.repeats.once import Repeatable
from libs.common.repeats.once import once as carry_out_once
from services.metering.model.catalogue import Catalogue
from services.metering.tables import catalogue_requests


async def once(
    home: Database,
    catalogue: Catalogue,
    clock: Clock,
    repeatable: Repeatable,
    work: Callable[[Transaction], Awaitable[bytes]],
) -> tuple[bytes, bool]:
    """Do the work in one transaction of `home`, and reload the catalogue.

    Return the serialized response, and whether it is that of an earlier request with the same id.

    Raises:
        RequestIdReused: the request id was sent before with another body.
    """
    response, replayed = await carry_out_once(home, catalogue_requests, clock, repeatable, work)
    if not replayed:
        await catalogue.reload()
    return response, replayed
