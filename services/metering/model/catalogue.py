"""The whole catalogue in memory: every usage is priced from it, without a statement of its own.

Prices change seldom and are never altered, so a process asks at most every two seconds what was added since. What this
process changes itself, it knows at once; a model or price it does not know makes it ask again before it says so.
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

FRESH_FOR_S: Final = 2.0
_ASK_AGAIN_AFTER_S: Final = 0.2


class Timelines:
    """Price versions in the order in which they come into force."""

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
    """Models and price versions, as of at most two seconds ago."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._models: dict[str, Model] = {}
        self._prices = Timelines()
        self._revision = -1
        self._asked_s = -math.inf
        self._lock = asyncio.Lock()
        self.changed = asyncio.Event()
        """Set whenever prices were added; whoever waits for prices clears it."""

    def model(self, model_id: str) -> Model | None:
        return self._models.get(model_id)

    def version(self, price_version_id: str) -> PriceVersion | None:
        return self._prices.version(price_version_id)

    def price(self, model_id: str, organization_id: str, moment: datetime) -> PriceVersion | None:
        """Return the version in force at the moment: the organization's own, else everybody's."""
        return self._prices.price(model_id, organization_id, moment)

    async def refresh(self) -> None:
        """Return when the catalogue is fresh enough to be used."""
        if time.monotonic() - self._asked_s > FRESH_FOR_S:
            await self.reload()

    async def refresh_for_unknown(self) -> None:
        """Return when something unknown was looked for a moment ago at the earliest."""
        if time.monotonic() - self._asked_s > _ASK_AGAIN_AFTER_S:
            await self.reload()

    async def reload(self) -> None:
        """Take in what was added since the last time."""
        asked_s = time.monotonic()
        async with self._lock:
            if self._asked_s >= asked_s:
                return
            asked_s = time.monotonic()
            async with self._database.transaction() as connection:
                revision = await store.read_revision(connection)
                if revision > self._revision:
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
