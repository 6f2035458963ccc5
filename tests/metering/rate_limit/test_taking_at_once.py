"""One statement takes of several counters what all of them leave, or nothing, as plain arithmetic says."""

import asyncio
import random
from collections.abc import Sequence
from decimal import Decimal

import pytest

from libs.common.amount import format_amount
from libs.common.ids import new_id
from libs.common.shards import Shards
from services.metering.quota import counter_store
from services.metering.quota.counters import Counters
from services.metering.quota.decisions import Take
from services.metering.quota.domain import Applied, Enforcement, Limit, Scope, Shape, Terms, Window
from tests.support.clock import FixedClock

pytestmark = pytest.mark.shards


def limit_of(maximum: str | None, enforcement: Enforcement = Enforcement.HARD, window: Window = Window.DAY) -> Limit:
    shape = Shape("requests", "", window, False, "UTC" if window is Window.DAY else "", 0, Scope.ORGANIZATION, "", "")
    terms = Terms(None if maximum is None else Decimal(maximum), enforcement)
    return Limit(new_id(), f"limit-{new_id()}", shape, terms)


class Taking:
    """Counters of an organization, and what is taken of them."""

    def __init__(self, shards: Shards) -> None:
        clock = FixedClock()
        self.counters, self.moment = Counters(shards, clock), clock.now()
        self.organization_id = new_id()
        self.database = shards.of(self.organization_id)

    def take(self, limit: Limit, amount: int) -> tuple[str, Take]:
        place = self.counters.place_of(Applied(limit, ""), self.moment)
        return self.organization_id, Take(place, Decimal(amount), asked=True)

    async def count(self, limit: Limit, used: int, reserved: int) -> None:
        """Create a limit's counter with this."""
        _, take = self.take(limit, 0)
        await self.counters.create(self.database, [(self.organization_id, take)])
        key = self.organization_id, take.place.counter.counter_id
        change = counter_store.Change(Decimal(used), Decimal(reserved))
        async with self.database.raw_connection() as connection:
            await counter_store.add(connection, {key: change})

    async def at_once(self, takes: Sequence[tuple[str, Take]]) -> bool:
        async with self.database.raw_connection() as connection:
            return await self.counters.take_if_left(connection, takes) is not None

    async def used(self, limit: Limit) -> Decimal:
        key = self.organization_id, self.take(limit, 0)[1].place.counter.counter_id
        async with self.database.raw_connection() as connection:
            return (await counter_store.read(connection, {key}))[key].used


async def test_all_is_taken_or_nothing(metering_shards: Shards) -> None:
    rolled = random.Random(11)
    for _ in range(60):
        taking = Taking(metering_shards)
        kept: dict[str, tuple[Limit, int, int]] = {}
        for _ in range(rolled.randint(1, 4)):
            maximum = rolled.choice([None, "1", "3", "6"])
            limit = limit_of(maximum, rolled.choice(list(Enforcement)))
            used, reserved = rolled.randint(0, 3), rolled.randint(0, 2)
            await taking.count(limit, used, reserved)
            kept[limit.limit_id] = limit, used, reserved
        wanted = [(rolled.choice(list(kept)), rolled.randint(0, 3)) for _ in range(rolled.randint(1, 5))]
        sums = {one: sum(amount for other, amount in wanted if other == one) for one, _ in wanted}
        fits = all(
            (limit := kept[one][0]).terms.maximum is None
            or limit.terms.enforcement is not Enforcement.HARD
            or sum(kept[one][1:]) + total <= limit.terms.maximum
            for one, total in sums.items()
        )

        assert await taking.at_once([taking.take(kept[one][0], amount) for one, amount in wanted]) == fits

        for one, (limit, used, _) in kept.items():
            assert await taking.used(limit) == used + (sums.get(one, 0) if fits else 0)


async def test_nothing_is_taken_where_a_counter_is_missing_or_only_locks_can_tell(metering_shards: Shards) -> None:
    taking = Taking(metering_shards)
    there, missing, forbidden = limit_of("5"), limit_of("5"), limit_of("0")
    await taking.count(there, 0, 0)
    await taking.count(forbidden, 0, 0)
    assert not await taking.at_once([taking.take(there, 1), taking.take(missing, 1)])
    assert not await taking.at_once([taking.take(there, 1), taking.take(forbidden, 0)])
    assert await taking.used(there) == 0
    assert await taking.at_once([taking.take(there, 5)])
    assert not await taking.at_once([taking.take(there, 1)])


async def test_no_more_than_there_is_can_be_taken_at_once_by_many(metering_shards: Shards) -> None:
    taking = Taking(metering_shards)
    hot, other = limit_of("40"), limit_of(None)
    await taking.count(hot, 3, 2)
    await taking.count(other, 0, 0)
    takes = [taking.take(hot, 1), taking.take(other, 1)]
    taken = await asyncio.gather(*(taking.at_once(takes if one % 2 else takes[::-1]) for one in range(100)))
    assert sum(taken) == 35
    assert [format_amount(await taking.used(one)) for one in (hot, other)] == ["38", "35"]
