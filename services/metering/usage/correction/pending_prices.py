"""Sums usage that waits for a price, with what it would cost."""

from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from libs.common.database import Database
from libs.common.errors import NotFound
from libs.common.ids import MAX, NIL, is_id
from libs.common.pages import foreign_token
from libs.common.shard_pages import place_in_token, token_after
from libs.common.shards import Shards
from services.metering.errors import CostTooLarge, PriceUnknown
from services.metering.model.catalogue import Catalogue
from services.metering.model.domain import PriceVersion
from services.metering.usage.correction import store
from services.metering.usage.correction.domain import priced
from services.metering.usage.domain import Work
from services.metering.usage.store import Key
from services.metering.usage_errors import PriceOfAnotherModel

_LOOKED_AT_MAX: Final = 5_000
_PART_MAX: Final = 500
_FIRST: Final[Key] = (NIL, NIL)


class Pending(NamedTuple):
    """Usage of one organization and model that waits for a price; the currency is empty where it has none."""

    organization_id: str
    model: str
    currency_code: str
    usages: int
    cost: Decimal
    first_time: datetime
    last_time: datetime


class Asked(NamedTuple):
    """Which usage is summed, and at which price."""

    organization_id: str | None
    model: str | None
    price_version_id: str | None

    @property
    def fingerprint(self) -> str:
        return f"pending/{self.organization_id}/{self.model}/{self.price_version_id}"


class PendingPrices:
    """Sums usage that waits for a price."""

    def __init__(self, shards: Shards, catalogue: Catalogue) -> None:
        self._shards = shards
        self._catalogue = catalogue

    async def page(self, asked: Asked, size: int, page_token: str) -> tuple[list[Pending], str]:
        """Return a page of sums, and the token of the next.

        Raises:
            NotFound: there is no such price version.
            PriceOfAnotherModel: it is for another model than the one asked about.
        """
        await self._catalogue.refresh()
        version = await self._version(asked)
        organization_id, model = asked.organization_id, asked.model
        if version is not None:
            organization_id, model = organization_id or version.organization_id, version.model_id
        shards = self._shards if organization_id is None else Shards([self._shards.of(organization_id)])
        number, after = place_in_token(page_token, asked.fingerprint, _FIRST, len(shards))
        if not is_id(after[1]):
            raise foreign_token()
        sums: dict[tuple[str, str, str], Pending] = {}
        last: Key | None = (after[0], after[1])
        for _ in range(_LOOKED_AT_MAX // _PART_MAX):
            assert last is not None, "the end was not reached"
            last = await self._add(shards[number], sums, last, (organization_id, model), version, size)
            if last is None or len(sums) == size:
                break
        return list(sums.values()), token_after(number, last, asked.fingerprint, _FIRST, len(shards))

    async def _version(self, asked: Asked) -> PriceVersion | None:
        if asked.price_version_id is None:
            return None
        if self._catalogue.version(asked.price_version_id) is None:
            await self._catalogue.refresh_for_unknown()
        version = self._catalogue.version(asked.price_version_id)
        if version is None or asked.organization_id not in (None, version.organization_id or asked.organization_id):
            raise NotFound(resource_type="price version", resource_name=asked.price_version_id)
        if asked.model not in (None, version.model_id):
            raise PriceOfAnotherModel(price_version_id=version.price_version_id, model_id=version.model_id)
        return version

    async def _add(
        self,
        database: Database,
        sums: dict[tuple[str, str, str], Pending],
        after: Key,
        wanted: tuple[str | None, str | None],
        version: PriceVersion | None,
        size: int,
    ) -> Key | None:
        """Add a part of what waits to the sums; return where the next begins, None at the end."""
        first = max(after, (wanted[0] or NIL, NIL))
        async with database.raw_connection() as connection:
            rows = await store.next_pending(
                connection, after=first, limit=_PART_MAX, until=wanted[0] or MAX, model=wanted[1]
            )
            found = {(row[0], row[2]) for row in rows if row[2] is not None}
            states = await store.find_states(connection, found) if found else {}
        for organization_id, usage_id, operation_id in rows:
            if operation_id is None:
                after = organization_id, usage_id
                continue
            usage = states[organization_id, operation_id].usage
            cost, currency_code = self._cost(usage.work, version)
            key = organization_id, usage.work.model, currency_code
            if key not in sums and len(sums) == size:
                return after
            moment = usage.work.occur_time
            known = sums.get(key) or Pending(*key, 0, Decimal(0), moment, moment)
            times = min(known.first_time, moment), max(known.last_time, moment)
            sums[key] = Pending(*key, known.usages + 1, known.cost + cost, *times)
            after = organization_id, usage_id
        return after if len(rows) == _PART_MAX else None

    def _cost(self, work: Work, version: PriceVersion | None) -> tuple[Decimal, str]:
        """Return what work would cost, and in which currency; nothing in none where it has no price."""
        chosen = version or self._catalogue.price(work.model, work.organization_id, work.occur_time)
        try:
            cost = priced(work, chosen, self._catalogue.units)
        except (PriceUnknown, CostTooLarge):
            return Decimal(0), ""
        return Decimal(cost.amount), cost.currency_code
