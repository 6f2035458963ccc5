"""Off-peak prices of LiteLLM's map: when they hold, minute by minute, and what calls cost then."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.metering.model.document import Flawed, Value
from services.metering.model.litellm_hours import read_schedule
from services.metering.model.rate_checks import check_rates
from services.metering.model.rates import Rate, RateCard
from services.metering.model.units import SEEDED_UNITS
from tests.metering.rate_cards import cost
from tests.metering.test_hours import UNHURRIED
from tests.metering.test_litellm_prices import PUBLIC_PRICE_MAP, Entry, card_of


def cost_at(card: RateCard, moment: str, used: dict[str, str | int]) -> Decimal:
    assert card.schedule is not None
    name = card.schedule.at(datetime.fromisoformat(moment))
    assert name is not None
    return cost(card.parts[name], used)


MILLION_OF_EACH: Final[dict[str, str | int]] = {"input_tokens": 10**6, "output_tokens": 10**6}


def test_off_peak_prices_hold_in_their_hours_and_the_others_at_other_times() -> None:
    nights = card_of("off-peak-nights")

    for moment, input_price, output_price in (
        ("2026-11-26T16:29:59Z", "0.3", "2"),
        ("2026-11-26T16:30Z", "0.15", "0.5"),
        ("2026-11-27T00:29:59Z", "0.15", "0.5"),
        ("2026-11-27T00:30Z", "0.3", "2"),
    ):
        assert cost_at(nights, moment, {"input_tokens": 10**6}) == Decimal(input_price)
        used = MILLION_OF_EACH | {"reasoning_tokens": 10**6, "cache_read_tokens": 10**6}
        assert cost_at(nights, moment, used) == 2 * (Decimal(input_price) + Decimal(output_price))


def test_deepseek_costs_what_its_page_says_in_each_hour_of_a_week() -> None:
    """Peak hours are 01:00 to 04:00 and 06:00 to 10:00 UTC from Monday to Friday, all others are half the price."""
    monday = datetime(2026, 11, 23, tzinfo=UTC)
    public = ("deepseek/deepseek-flash", "tencent/deepseek-v4.1-flash", "deepseek/deepseek-flash-latest")
    for name in ("off-peak-weekends", "off-peak-alias", *(public if PUBLIC_PRICE_MAP.exists() else ())):
        for hour in range(7 * 24):
            moment = monday + timedelta(hours=hour)
            peak = hour < 5 * 24 and moment.hour in (1, 2, 3, 6, 7, 8, 9)
            for at in (moment, moment + timedelta(minutes=59, seconds=59)):
                assert cost_at(card_of(name), at.isoformat(), MILLION_OF_EACH) == Decimal("1.5" if peak else "0.75")


def is_off_peak(block: Entry, moment: datetime) -> bool:
    """What the map's own documentation says of a block, minute by minute."""

    def within(listed: Value) -> bool:
        texts = listed if isinstance(listed, list) else [listed]
        minute = f"{moment:%H:%M}"
        pairs = [str(text).split("-") for text in texts if text is not None]
        return any(start <= minute < end if start < end else minute >= start or minute < end for start, end in pairs)

    zone = ZoneInfo(str(block.get("weekday_timezone", "UTC")))
    weekday = moment.astimezone(zone).isoweekday()
    windows = block.get("windows") or []
    assert isinstance(windows, list)
    return within(block.get("hours_utc")) or any(
        isinstance(one, dict)
        and within(one["hours_utc"])
        and (not one.get("weekdays") or str(weekday) in str(one["weekdays"]))
        for one in windows
    )


TIMES = st.builds(
    lambda start, end: f"{start:02}:00-{end:02}:30", st.integers(0, 23), st.integers(0, 23)
) | st.sampled_from(["00:00-00:00", "10:00-00:00", "23:59-00:01"])
SOME_TIMES = TIMES | st.lists(TIMES, min_size=1, max_size=3)
WINDOWS = st.fixed_dictionaries(
    {"hours_utc": SOME_TIMES},
    optional={"weekdays": st.sets(st.sampled_from("1234567"), min_size=1).map(sorted)},
)
BLOCKS = st.fixed_dictionaries(
    {},
    optional={
        "hours_utc": SOME_TIMES,
        "windows": st.lists(WINDOWS, min_size=1, max_size=3),
        "weekday_timezone": st.sampled_from(
            ["Asia/Shanghai", "Asia/Kathmandu", "Pacific/Kiritimati", "Etc/GMT+12", "UTC"]
        ),
    },
).filter(lambda block: "hours_utc" in block or "windows" in block)


@UNHURRIED
@given(BLOCKS, st.lists(st.integers(0, 7 * 1_440 - 1), min_size=20, max_size=20))
def test_off_peak_hours_are_those_that_the_map_says(block: Entry, minutes: list[int]) -> None:
    schedule = read_schedule(block)
    rates = (Rate("images", Decimal(2)), Rate("images", Decimal(1), hours="off_peak"))
    assert check_rates(RateCard("USD", rates, schedule=schedule), SEEDED_UNITS) == []
    for minute in minutes:
        moment = datetime(2026, 11, 23, tzinfo=UTC) + timedelta(minutes=minute)
        assert (schedule.at(moment) == "off_peak") == is_off_peak(block, moment), moment


@pytest.mark.parametrize(
    "block",
    [
        {},
        {"hours_utc": []},
        {"hours_utc": "16:30"},
        {"hours_utc": "16:30-24:00"},
        {"hours_utc": "1:30-2:00"},
        {"hours_utc": ["01:00-02:00", "3"]},
        {"hours_utc": {"from": "01:00"}},
        {"hours_utc": ["01:00-02:00"] * 33},
        {"hours_utc": [f"{hour:02}:00-{hour:02}:01" for hour in range(20)],
         "windows": [{"hours_utc": [f"{hour:02}:30-{hour:02}:31" for hour in range(20)]}]},
        {"windows": {}},
        {"windows": []},
        {"windows": ["01:00-02:00"]},
        {"windows": [{"weekdays": ["1"]}]},
        {"windows": [{"hours_utc": "01:00-02:00", "weekdays": ["8"]}]},
        {"windows": [{"hours_utc": "01:00-02:00", "weekdays": ["someday"]}]},
        {"windows": [{"hours_utc": "01:00-02:00", "weekdays": []}]},
        {"windows": [{"hours_utc": "01:00-02:00", "season": "summer"}]},
        {"windows": [{"hours_utc": "01:00-02:00"}] * 33},
        {"hours_utc": "01:00-02:00", "weekday_timezone": "Europe/Berlin"},
        {"hours_utc": "01:00-02:00", "weekday_timezone": "Mars/Olympus"},
        {"hours_utc": "01:00-02:00", "weekday_timezone": ["UTC"]},
    ],
)  # fmt: skip
def test_off_peak_hours_that_are_not_understood_are_no_hours(block: Entry) -> None:
    with pytest.raises(Flawed):
        read_schedule(block)


def test_weekdays_are_numbers_or_names_of_days() -> None:
    listed: tuple[Value, ...] = (["sat", "Sunday"], ["6", "7"], "SAT")
    for weekdays in listed:
        schedule = read_schedule({"windows": [{"hours_utc": "00:00-00:00", "weekdays": weekdays}]})
        assert schedule.at(datetime(2026, 11, 28, tzinfo=UTC)) == "off_peak"
        assert schedule.at(datetime(2026, 11, 27, tzinfo=UTC)) == ""
