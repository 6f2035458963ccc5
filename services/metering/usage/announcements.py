"""Announces usage, for the organizations that have switched it on: by an endpoint that names the type of the event.

One event tells of all usage of an organization that one transaction records, so that a batch of 500 usages costs a few
rows. It is written in that transaction, as its last statement. Whether somebody wants it is looked at beside the calls;
where nobody does, a batch costs two look-ups in memory.

The events of an organization have eight subjects, so that as many can be sent at a time, and batches that are written
at once seldom wait for each other's number.
"""

import asyncio
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, NoReturn

from libs.common.database import Database, RawConnection
from libs.common.events.domain import USAGE_RECORDED
from libs.common.events.homes import Homes
from libs.common.events.outbox import NewEvent, announce
from libs.common.sharding import PLATFORM
from libs.common.timestamps import rfc3339
from services.metering.model.units import quantity_text
from services.metering.tables import TOKEN_CLASSES
from services.metering.usage import event_store
from services.metering.usage.domain import Recorded

SUBJECTS: Final = 8
_LOOK_EVERY_S: Final = 1.0
_AT_ONCE: Final = 1_000
_USAGES_MAX: Final = 100
_BYTES_MAX: Final = 32_768
"""How large the usages of an event are in all; a single one has at most a third of it."""


class UsageEvents:
    """Knows who wants events of usage, and writes them."""

    def __init__(self, homes: Homes) -> None:
        self._homes = homes
        self._wanting: dict[Database, frozenset[str]] = {}
        """The organizations of each database that want them, PLATFORM for an endpoint that is told of all."""
        self._first_look = asyncio.Lock()

    async def run(self) -> NoReturn:
        """Look again and again who wants events, until cancelled."""
        await self._homes.all.visit(self.look, every_s=_LOOK_EVERY_S)

    async def look(self, home: Database) -> None:
        """Look who wants events in a database."""
        found: list[str] = []
        while True:
            async with home.raw_connection() as connection:
                page = await event_store.wanting(connection, found[-1] if found else None, _AT_ONCE)
            found += page
            if len(page) < _AT_ONCE:
                break
        self._wanting[home] = frozenset(found)

    async def wanted(self, database: Database, recorded: Sequence[Recorded]) -> Sequence[Recorded]:
        """Return those usages of a shard that are to be announced."""
        if database not in self._wanting or self._homes.platform not in self._wanting:
            await self._look_at_first(database)
        if PLATFORM in self._wanting[self._homes.platform]:
            return recorded
        wanting = self._wanting[database]
        return [one for one in recorded if one.work.organization_id in wanting] if wanting else ()

    async def _look_at_first(self, database: Database) -> None:
        """Look for the first usage of a shard, once for all batches that begin meanwhile."""
        async with self._first_look:
            for home in (self._homes.platform, database):
                if home not in self._wanting:
                    await self.look(home)


async def announce_usage(
    connection: RawConnection, wanted: Sequence[Recorded], new_ids: Collection[str], now: datetime
) -> None:
    """Announce the new ones of the wanted usages in the transaction that records them, as its last statement."""
    by_organization: dict[str, list[Recorded]] = {}
    for one in wanted:
        if one.usage_id in new_ids:
            by_organization.setdefault(one.work.organization_id, []).append(one)
    if not by_organization:
        return
    events = [event for each in by_organization.items() for event in _events_of(*each)]
    # In the order in which the subjects are locked, also where there are so many that it takes several statements.
    await announce(connection, sorted(events, key=lambda one: (one.organization_id, one.subject)), now)


def _events_of(organization_id: str, recorded: Sequence[Recorded]) -> Iterator[NewEvent]:
    lane = int(recorded[0].usage_id[-1], 16) % SUBJECTS
    subject = f"usage/{organization_id}/{lane}"
    part: list[Mapping[str, object]] = []
    size = 0
    for one in map(_data, recorded):
        bytes_ = len(json.dumps(one))
        if part and (len(part) == _USAGES_MAX or size + bytes_ > _BYTES_MAX):
            yield NewEvent(organization_id, USAGE_RECORDED, subject, {"usages": part})
            part, size = [], 0
        part.append(one)
        size += bytes_
    yield NewEvent(organization_id, USAGE_RECORDED, subject, {"usages": part})


def _data(one: Recorded) -> Mapping[str, object]:
    """Return what is told of a usage: no text of the caller but the operation id, the model and the endpoint."""
    work, cost = one.work, one.cost
    tokens = {name: count for name, count in zip(TOKEN_CLASSES, work.tokens, strict=True) if count}
    quantities = {unit: quantity_text(value) for unit, value in sorted(work.quantities.items())}
    return {
        "usage_id": one.usage_id,
        "operation_id": work.operation_id,
        "model": work.model,
        "occur_time": rfc3339(work.occur_time),
        "environment": work.environment,
        **{name: value for name in _OPTIONAL if (value := getattr(work, name)) is not None},
        **({"tokens": tokens} if tokens else {}),
        **({"quantities": quantities} if quantities else {}),
        "cost": None if cost is None else {"currency_code": cost.currency_code, "value": cost.amount},
    }


_OPTIONAL: Final = ("project_id", "user_id", "api_key_id", "service_account_id", "subscription_id", "endpoint")
