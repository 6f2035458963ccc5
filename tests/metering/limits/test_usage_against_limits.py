"""GetUsageAgainstLimits says where limits stand, as the calls decide by it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.ids import new_id
from libs.common.shards import Shards, open_shards
from libs.common.timestamps import render_time
from services.metering.quota import counter_store
from services.metering.quota.counter_store import Change
from services.metering.quota.counters import Counters
from services.metering.quota.decisions import Take, place_of
from services.metering.quota.store import of as stored_limits
from tests.metering.limits.support_rpc import (
    CALL,
    DAY,
    HOUR,
    LABEL,
    LIFETIME,
    MINUTE,
    MODEL,
    MONTH,
    NO_WINDOW,
    ORGANIZATION,
    PROJECT,
    SHADOW,
    USER,
    change_limit,
    delete_limit,
    set_limit,
    usage_of,
)
from tests.metering.support import Metering, Platform
from tests.support.callers import Callers
from tests.support.clock import FixedClock
from tests.support.sharded import SHARDS
from tollhouse.metering.v1 import quota_pb2 as pb

NOW = datetime(2026, 3, 15, 12, 0, 30, tzinfo=UTC)


class House:
    """Metering with a clock that stands still, and counters that are filled as calls fill them."""

    def __init__(self, metering: Metering, shards: Shards, clock: FixedClock) -> None:
        self.metering = metering
        self.shards = shards
        self._clock = clock
        self._counters = Counters(self.shards, clock)

    def advance(self, by: timedelta) -> None:
        self._clock.advance(by)
        self.metering.operator = self.metering.callers.operator()  # The token of before has expired.

    async def count(
        self, organization_id: str, name: str, used: str, reserved: str = "0", *, subject: str = "", ago_s: float = 0
    ) -> None:
        """Let a subject have used and reserved something of a limit some time ago."""
        database = self.shards.of(organization_id)
        moment = self._clock.now() - timedelta(seconds=ago_s)
        async with database.raw_connection() as connection:
            entries = (await stored_limits(connection, [organization_id]))[organization_id]
        (limit,) = (entry.limit for entry in entries if entry.limit.name == name)
        take = Take(place_of(limit, subject, moment), Decimal(used), asked=True)
        await self._counters.create(database, [(organization_id, take)])
        async with database.raw_transaction() as connection:
            await self._counters.lock(connection, [(organization_id, take)])
            change = Change(Decimal(used), Decimal(reserved))
            await counter_store.add(connection, {(organization_id, take.place.counter.counter_id): change})


@pytest.fixture
async def house(database_urls: dict[str, str], database_admin_url: str, tmp_path: Path) -> AsyncIterator[House]:
    clock = FixedClock(NOW)
    platform = Platform(Callers(tmp_path, clock), database_urls, database_admin_url, tmp_path, clock)
    shards = open_shards(database_urls["metering"], schema="metering", count=SHARDS)
    try:
        await platform.start()
        await platform.metering.add_model()
        yield House(platform.metering, shards, clock)
    finally:
        await platform.close()
        await shards.close()


def stamp(moment: str) -> Timestamp:
    return render_time(datetime.fromisoformat(moment).replace(tzinfo=UTC))


def told(one: pb.LimitStatus) -> tuple[str, str, str, str]:
    return one.max, one.used, one.reserved, one.remaining


async def test_limit_that_nothing_was_used_of_stands_at_zero(metering: Metering, organization_id: str) -> None:
    assert await usage_of(metering, organization_id) == []
    made = await set_limit(metering, organization_id, enforcement=SHADOW)

    (one,) = await usage_of(metering, organization_id)

    assert (one.name, one.limit_id, one.metric) == ("requests", made.limit_id, "requests")
    assert (one.window, one.scope, one.scope_value, one.enforcement) == (MINUTE, ORGANIZATION, "", SHADOW)
    assert told(one) == ("100", "0", "0", "100")
    assert not one.exceeded
    assert one.reset_time.seconds - one.window_start_time.seconds == 60


async def test_used_and_reserved_are_those_of_the_present_window(house: House, organization_id: str) -> None:
    await set_limit(house.metering, organization_id, window=HOUR)
    await house.count(organization_id, "requests", "70", ago_s=3600)
    await house.count(organization_id, "requests", "30.5", "9.5")

    (one,) = await usage_of(house.metering, organization_id)
    assert told(one) == ("100", "30.5", "9.5", "60")
    assert (one.window_start_time, one.reset_time) == (stamp("2026-03-15T12:00"), stamp("2026-03-15T13:00"))
    house.advance(timedelta(hours=1))
    (one,) = await usage_of(house.metering, organization_id)
    assert told(one) == ("100", "0", "0", "100")


async def test_lower_maximum_leaves_nothing_and_never_less_than_nothing(house: House, organization_id: str) -> None:
    await set_limit(house.metering, organization_id)
    await house.count(organization_id, "requests", "60", "20")
    await change_limit(house.metering, organization_id, "requests", value="50")

    (lowered,) = await usage_of(house.metering, organization_id)
    assert (told(lowered), lowered.exceeded) == (("50", "60", "20", "0"), True)
    assert lowered.reset_time == stamp("2026-03-15T12:01")
    await change_limit(house.metering, organization_id, "requests", "max")
    (cleared,) = await usage_of(house.metering, organization_id)
    assert (told(cleared), cleared.exceeded) == (("", "60", "20", ""), False)


async def test_limit_that_is_set_again_after_its_deletion_begins_at_zero(house: House, organization_id: str) -> None:
    await set_limit(house.metering, organization_id)
    await house.count(organization_id, "requests", "60")
    await delete_limit(house.metering, organization_id)
    assert await usage_of(house.metering, organization_id) == []
    await set_limit(house.metering, organization_id)

    (one,) = await usage_of(house.metering, organization_id)
    assert told(one) == ("100", "0", "0", "100")


async def test_burst_adds_what_the_window_before_has_left(house: House, organization_id: str) -> None:
    await set_limit(house.metering, organization_id, burst="50")
    (unused,) = await usage_of(house.metering, organization_id)
    await house.count(organization_id, "requests", "70", ago_s=60)
    await house.count(organization_id, "requests", "110")
    (one,) = await usage_of(house.metering, organization_id)

    assert told(unused) == ("150", "0", "0", "150")
    assert (told(one), one.exceeded) == (("130", "110", "0", "20"), False)


async def test_sliding_window_sums_its_steps(house: House, organization_id: str) -> None:
    await set_limit(house.metering, organization_id, sliding=True)
    for ago_s, used in ((0, "1"), (1, "2"), (30, "4"), (60, "8"), (61, "16"), (90, "32")):
        await house.count(organization_id, "requests", used, ago_s=ago_s)

    (one,) = await usage_of(house.metering, organization_id)
    assert told(one) == ("100", "15", "0", "85")
    assert not one.HasField("reset_time")
    house.advance(timedelta(seconds=30))
    (one,) = await usage_of(house.metering, organization_id)
    assert told(one) == ("100", "7", "0", "93")


async def test_days_are_those_of_the_zone(house: House, organization_id: str) -> None:
    await set_limit(house.metering, organization_id, "tokyo", window=DAY, time_zone="Asia/Tokyo")
    await set_limit(house.metering, organization_id, "month", window=MONTH, time_zone="Europe/Amsterdam")
    await house.count(organization_id, "tokyo", "5", ago_s=5 * 3600)

    month, tokyo = await usage_of(house.metering, organization_id)
    assert (tokyo.window_start_time, tokyo.reset_time) == (stamp("2026-03-14T15:00"), stamp("2026-03-15T15:00"))
    assert tokyo.used == "5"
    assert (month.window_start_time, month.reset_time) == (stamp("2026-02-28T23:00"), stamp("2026-03-31T22:00"))


async def test_windows_without_an_end_have_no_times(house: House, organization_id: str) -> None:
    await set_limit(house.metering, organization_id, "calls", metric="concurrent_calls", window=NO_WINDOW, value="3")
    await set_limit(house.metering, organization_id, "ever", window=LIFETIME)
    await set_limit(house.metering, organization_id, "one-call", metric="items", window=CALL, value="8", scope=USER)
    await house.count(organization_id, "calls", "0", "2")
    await house.count(organization_id, "ever", "99", ago_s=9_000_000)

    calls, ever, one_call = await usage_of(house.metering, organization_id)
    assert told(calls) == ("3", "0", "2", "1")
    assert told(ever) == ("100", "99", "0", "1")
    assert (told(one_call), one_call.scope_value) == (("8", "0", "0", "8"), "")
    for one in (calls, ever, one_call):
        assert not one.HasField("reset_time")
        assert not one.HasField("window_start_time")


async def test_limit_of_each_lists_those_who_used_or_reserved_something_in_the_present_window(
    house: House, organization_id: str
) -> None:
    users = sorted(new_id() for _ in range(23))
    for name, sliding in (("each", False), ("sliding", True)):
        await set_limit(house.metering, organization_id, name, scope=USER, sliding=sliding)
        for number, user in enumerate(users):
            await house.count(organization_id, name, "5", subject=user, ago_s=600)
            if number % 3 == 0:
                await house.count(organization_id, name, "0", subject=user)
            elif number % 3 == 1:
                await house.count(organization_id, name, "0", "2", subject=user)
            else:
                await house.count(organization_id, name, str(number), subject=user)
    await set_limit(house.metering, organization_id, "z-last")

    expected = [
        (name, user, str(number) if number % 3 == 2 else "0", "2" if number % 3 == 1 else "0")
        for name in ("each", "sliding")
        for number, user in enumerate(users)
        if number % 3
    ]
    expected.append(("z-last", "", "0", "0"))
    for page_size in (1, 2, 7, len(expected), 1000):
        found = await usage_of(house.metering, organization_id, page_size)
        assert [(one.name, one.scope_value, one.used, one.reserved) for one in found] == expected
    (one,) = await usage_of(house.metering, organization_id, name="each", scope_value=users[2])
    assert (one.name, one.scope_value, one.used) == ("each", users[2], "2")
    assert {one.name for one in await usage_of(house.metering, organization_id, name="sliding")} == {"sliding"}


async def test_page_ends_after_five_thousand_who_have_used_nothing_and_the_next_goes_on(
    house: House, organization_id: str
) -> None:
    await set_limit(house.metering, organization_id, scope=LABEL, label="team")
    await house.count(organization_id, "requests", "1", subject="~last", ago_s=0)
    async with house.shards.of(organization_id).raw_connection() as connection:
        await connection.execute(
            """INSERT INTO limit_counters (organization_id, counter_id, limit_id, subject, window_start, window_end,
                drop_time, metric, currency_code, entitled, used, reserved)
            SELECT organization_id, gen_random_uuid(), limit_id, 'idle-' || number, window_start, window_end, drop_time,
                metric, currency_code, entitled, 0, 0
            FROM limit_counters, generate_series(1, 5200) AS number WHERE organization_id = $1 AND subject = '~last'""",
            organization_id,
        )

    request = pb.GetUsageAgainstLimitsRequest(organization_id=organization_id)
    first = await house.metering.quota.GetUsageAgainstLimits(request, metadata=house.metering.operator)
    request.page_token = first.next_page_token
    second = await house.metering.quota.GetUsageAgainstLimits(request, metadata=house.metering.operator)

    assert (list(first.limits), first.next_page_token != "") == ([], True)
    assert ([one.scope_value for one in second.limits], second.next_page_token) == (["~last"], "")


async def test_scope_value_asks_for_one_with_the_limits_of_all(house: House, organization_id: str) -> None:
    user = new_id()
    await set_limit(house.metering, organization_id, "all")
    await set_limit(house.metering, organization_id, "label", scope=LABEL, label="team")
    await set_limit(house.metering, organization_id, "model", scope=MODEL, scope_value="gpt-4o")
    await set_limit(house.metering, organization_id, "project", scope=PROJECT)
    await set_limit(house.metering, organization_id, "user", scope=USER)
    await house.count(organization_id, "user", "3", subject=user)
    await house.count(organization_id, "user", "4", subject=new_id())

    async def asked(**filters: object) -> list[tuple[str, str, str]]:
        found = await usage_of(house.metering, organization_id, 2, **filters)
        return [(one.name, one.scope_value, one.used) for one in found]

    assert await asked(scope_value=user.upper(), scope=USER) == [("all", "", "0"), ("user", user, "3")]
    assert await asked(scope_value=user) == [
        ("all", "", "0"),
        ("label", user, "0"),
        ("project", user, "0"),
        ("user", user, "3"),
    ]
    assert await asked(scope_value="gpt-4o") == [("all", "", "0"), ("label", "gpt-4o", "0"), ("model", "gpt-4o", "0")]
    assert await asked(scope_value="gpt-4o", scope=MODEL) == [("all", "", "0"), ("model", "gpt-4o", "0")]
    assert await asked(scope_value="gpt-5", scope=MODEL) == [("all", "", "0")]
    assert await asked(scope=ORGANIZATION) == [("all", "", "0")]
    assert len(await asked(scope=USER)) == 2
    assert await asked(name="no-such-limit") == []


async def test_large_page_of_sliding_limits_is_read_in_portions(house: House, organization_id: str) -> None:
    names = [f"limit-{number:03}" for number in range(190)]
    for name in names:
        await set_limit(house.metering, organization_id, name, sliding=True)
    await house.count(organization_id, names[-1], "7", ago_s=59)

    found = await usage_of(house.metering, organization_id, 1000)

    assert [one.name for one in found] == names
    assert [one.used for one in found] == ["0"] * 189 + ["7"]
