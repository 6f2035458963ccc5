"""A cache of the whole catalogue, units, models and prices, in memory, so that usage is priced without a query.

Price versions are never changed, so a process only reads what was added since, at most every two seconds. It reloads at
once after its own changes, and before it answers that a model or price does not exist.
"""

import asyncio
import bisect
import math
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from libs.common.database import Database
from services.metering.model import store
from services.metering.model.domain import Model, PriceVersion
from services.metering.model.units import Unit, Units

FRESH_FOR_S: Final = 2.0
_ASK_AGAIN_AFTER_S: Final = 0.2


class Timelines:
    """The price versions of each model and organization, sorted by effective time."""

    def __init__(self) -> None:
        self._versions: dict[str, PriceVersion] = {}
        self._timelines: dict[tuple[str, str | None], list[PriceVersion]] = {}
        self._organizations_with_prices: set[str] = set()

    def version(self, price_version_id: str) -> PriceVersion | None:
        return self._versions.get(price_version_id)

    def price(self, model_id: str, organization_id: str, moment: datetime) -> PriceVersion | None:
        """Return the version in force at the moment: the organization's own, else everybody's."""
        if organization_id in self._organizations_with_prices:
            own = _in_force(self._timelines.get((model_id, organization_id)), moment)
            if own is not None:
                return own
        return _in_force(self._timelines.get((model_id, None)), moment)

    def take_in(self, versions: Iterable[PriceVersion]) -> None:
        for version in versions:
            if version.price_version_id in self._versions:
                continue
            self._versions[version.price_version_id] = version
            if version.organization_id is not None:
                self._organizations_with_prices.add(version.organization_id)
            timeline = self._timelines.setdefault((version.model_id, version.organization_id), [])
            bisect.insort(timeline, version, key=lambda known: known.effective_time)


class Catalogue:
    """Models and price versions, at most two seconds old."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._units: dict[str, Unit] = {}
        self._models: dict[str, Model] = {}
        self._prices = Timelines()
        self._revision = -1
        self._asked_s = -math.inf
        self._lock = asyncio.Lock()
        self.changed = asyncio.Event()
        """Set whenever the catalogue has changed; the task that waits for prices clears it."""

    @property
    def units(self) -> Units:
        """All units by their ids, archived ones included."""
        return self._units

    def model(self, model_id: str) -> Model | None:
        return self._models.get(model_id)

    def version(self, price_version_id: str) -> PriceVersion | None:
        return self._prices.version(price_version_id)

    def price(self, model_id: str, organization_id: str, moment: datetime) -> PriceVersion | None:
        """Return the version in force at the moment: the organization's own, else everybody's."""
        return self._prices.price(model_id, organization_id, moment)

    async def refresh(self) -> None:
        """Reload the catalogue if it is older than two seconds."""
        if time.monotonic() - self._asked_s > FRESH_FOR_S:
            await self.reload()

    async def refresh_for_unknown(self) -> None:
        """Reload the catalogue before something is reported as unknown, unless that was done a moment ago."""
        if time.monotonic() - self._asked_s > _ASK_AGAIN_AFTER_S:
            await self.reload()

    async def reload(self) -> None:
        """Read what was added since the last reload."""
        asked_s = time.monotonic()
        async with self._lock:
            if self._asked_s >= asked_s:
                return
            asked_s = time.monotonic()
            async with self._database.transaction() as connection:
                revision = await store.read_revision(connection)
                if revision > self._revision:
                    for unit in await store.units_since(connection, self._revision):
                        self._units[unit.unit_id] = unit
                    async for models in store.models_since(connection, self._revision):
                        self._models.update((model.model_id, model) for model in models)
                    async for versions in store.price_versions_since(connection, self._revision):
                        self._prices.take_in(versions)
                    self._revision = revision
                    self.changed.set()
            self._asked_s = asked_s


def _in_force(timeline: list[PriceVersion] | None, moment: datetime) -> PriceVersion | None:
    if not timeline:
        return None
    latest = timeline[-1]
    if latest.effective_time <= moment:
        return latest
    position = bisect.bisect_right(timeline, moment, key=lambda version: version.effective_time)
    return timeline[position - 1] if position else None
