"""Rates for hours of the day over the API: set, listed, imported, estimated, held for, charged, and checked in SQL."""

import re
import zoneinfo
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from libs.cli.installation.environment import repository
from libs.common.ids import new_id
from tests.metering.support import Metering, Platform, eventually, settlement, usage
from tests.metering.test_admission import ask
from tests.metering.test_bad_input import faults
from tests.metering.test_quantities import of, usd
from tests.metering.test_set_price import listed, price, set_price
from tollhouse.metering.v1 import model_pb2 as pb
from tollhouse.metering.v1 import unit_pb2, usage_pb2

ZONES: Final = ("Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe", "UTC")
NIGHT: Final = pb.Hours(name="night", spans=[pb.Span(start="22:15", end="06:00")])
SUNDAY: Final = pb.Hours(name="sunday", spans=[pb.Span(start="06:00", end="22:15", weekdays=[pb.WEEKDAY_SUNDAY])])


def rate(unit: str, amount: str, per: int = 1_000_000, **fields: object) -> pb.Rate:
    cost = format(Decimal(amount) / 2, "f")
    return pb.Rate(unit=unit, price=amount, per=per, provider_cost=cost, **fields)  # type: ignore[arg-type]


def card(time_zone: str = "Europe/Berlin") -> pb.RateCard:
    return pb.RateCard(
        rates=[
            rate("input_tokens", "4"),
            rate("input_tokens", "8", above=200_000),
            rate("output_tokens", "16"),
            rate("input_tokens", "1", service_tier="batch"),
            rate("images", "0.04", 1),
            rate("web_searches", "10", 1_000, service_tier="any"),
            rate("requests", "0.000001", 1, service_tier="any"),
            rate("input_tokens", "2", hours="night"),
            rate("output_tokens", "6", hours="night"),
            rate("output_tokens", "12", hours="night", above=200_000),
            rate("requests", "0.000003", 1, service_tier="any", hours="night"),
            rate("web_searches", "20", 1_000, service_tier="any", hours="sunday"),
            rate("images", "0.06", 1, hours="sunday"),
        ],
        fallbacks=[
            pb.Fallback(unit="cache_read_tokens", priced_as="input_tokens"),
            pb.Fallback(unit="reasoning_tokens", priced_as="output_tokens"),
        ],
        provider_currency_code="USD",
        time_zone=time_zone,
        hours=[NIGHT, SUNDAY],
    )


# What each costs in no hours, by night and on Sunday.
CASES: Final[tuple[tuple[dict[str, int], dict[str, str], str, tuple[str, str, str]], ...]] = (
    ({"input": 1_000, "output": 100}, {}, "", ("0.005601", "0.002603", "0.005601")),
    ({"input": 200_001, "reasoning": 100}, {}, "", ("1.601609", "0.401205", "1.601609")),
    ({"cache_read": 1_000}, {"images": "2"}, "", ("0.084001", "0.082003", "0.124001")),
    ({"input": 1_000}, {"web_searches": "3"}, "batch", ("0.031001", "0.031003", "0.061001")),
    ({}, {"requests": "4"}, "flex", ("0.000004", "0.000012", "0.000004")),
)
MODEL: Final = "hourly"
PLACE: Final = {"": 0, "night": 1, "sunday": 2}


def stamp_of(moment: datetime) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(moment)
    return found


async def price_by_hours(metering: Metering, time_zone: str = "Europe/Berlin") -> None:
    await metering.add_model(MODEL)
    await set_price(metering, price(model_id=MODEL, rate_card=card(time_zone), effective_time=Timestamp(seconds=1)))


def local_moments(time_zone: str) -> list[tuple[str, datetime]]:
    """Moments of a whole week around the edges of hours, each with its hours."""
    zone, now = ZoneInfo(time_zone), datetime.now(UTC)
    today = (now - timedelta(days=9)).astimezone(zone).date()
    found = []
    for day in (today + timedelta(days=number) for number in range(8)):
        sunday = "sunday" if day.isoweekday() == 7 else ""
        for text, name in (("05:59:59.999999", "night"), ("06:00", sunday), ("22:14:59", sunday), ("22:15", "night")):
            found.append((name, datetime.fromisoformat(f"{day}T{text}").replace(tzinfo=zone).astimezone(UTC)))
    return found


@pytest.mark.own_database
@pytest.mark.parametrize("time_zone", ZONES)
async def test_usage_is_charged_by_its_hours_and_the_check_computes_the_same(
    platform: Platform, metering: Metering, organization_id: str, time_zone: str
) -> None:
    await price_by_hours(metering, time_zone)
    requests, costs = [], []
    for number, (name, moment) in enumerate(local_moments(time_zone)):
        tokens, quantities, tier, by_hours = CASES[number % len(CASES)]
        costs.append(by_hours[PLACE[name]])
        requests.append(
            usage_pb2.RecordUsageRequest(
                organization_id=organization_id,
                operation_id=f"call-{number}",
                model=MODEL,
                tokens=pb.TokenCounts(**tokens),
                quantities=of(**quantities),
                service_tier=tier,
                occur_time=stamp_of(moment),
            )
        )

    outcomes = await metering.record_batch(requests)

    assert [one.recorded.usage.cost for one in outcomes] == [usd(cost) for cost in costs]
    halves = [Decimal(cost) / 2 for cost in costs]
    assert [Decimal(one.recorded.usage.provider_cost.value) for one in outcomes] == halves
    for number, cost in enumerate(costs):
        assert (await metering.get(organization_id, f"call-{number}")).cost == usd(cost)
    await platform.settled()
    assert sum((await metering.charges()).values()) == sum(map(Decimal, costs))
    assert await metering.findings() == []
    # A billionth more of any of them is found, and hours that it was not priced in.
    for damage, undo in (
        ("cost = cost + 0.000000001", "cost = cost - 0.000000001"),
        ("rate_hours = CASE rate_hours WHEN 'night' THEN 'sunday' ELSE 'night' END", ""),
    ):
        await platform.execute(f"UPDATE metering.usage_records SET {damage}")  # noqa: S608
        off = [one for one in await metering.findings() if one.startswith("costs_derive_from_prices")]
        assert len(off) == len(costs)
        if undo:
            await platform.execute(f"UPDATE metering.usage_records SET {undo}")  # noqa: S608


async def test_the_check_needs_no_time_zone_of_the_database(
    platform: Platform, metering: Metering, organization_id: str, tmp_path: Path
) -> None:
    """A zone that only Python knows stands for one whose rules differ between Python and Postgres."""
    (tmp_path / "Legacy").mkdir()
    folder = next(Path(folder) for folder in zoneinfo.TZPATH if (Path(folder) / "Etc/GMT+7").exists())
    (tmp_path / "Legacy" / "Pacific").write_bytes((folder / "Etc/GMT+7").read_bytes())
    zoneinfo.reset_tzpath([str(tmp_path), *zoneinfo.TZPATH])
    try:
        await price_by_hours(metering, "Legacy/Pacific")
        night = datetime.now(UTC).replace(hour=8, minute=0) - timedelta(days=2)  # 01:00 there.
        recorded = await metering.record(usage(organization_id, model=MODEL, occur_time=stamp_of(night)))
    finally:
        zoneinfo.reset_tzpath()

    assert recorded.usage.cost == usd("0.002603")
    await platform.settled()
    assert await metering.findings() == []


@pytest.mark.own_database
async def test_usage_that_waited_for_its_price_is_charged_by_the_hours_it_occurred_in(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    moments = local_moments("Europe/Berlin")
    for number, (_, moment) in enumerate(moments):
        waiting = await metering.record(
            usage(organization_id, f"call-{number}", model=MODEL, occur_time=stamp_of(moment))
        )
        assert waiting.usage.settlement == usage_pb2.SETTLEMENT_PENDING_PRICE
    await price_by_hours(metering)

    for number, (name, _) in enumerate(moments):
        priced = await eventually(
            lambda number=number: metering.get(organization_id, f"call-{number}"),  # type: ignore[misc]
            lambda one: one.HasField("cost"),
        )
        assert priced.cost == usd(CASES[0][3][PLACE[name]])
    await platform.settled()
    assert await metering.findings() == []
    await platform.execute("UPDATE metering.usage_pricings SET rate_hours = NULL")
    nights = sum(name == "night" for name, _ in moments)
    assert len([one for one in await metering.findings() if one.startswith("costs_derive_from_prices")]) == nights


@pytest.mark.own_database
async def test_what_is_held_covers_a_settlement_in_any_hours(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await price_by_hours(metering)
    await platform.fund(organization_id, "10")
    at = {name: moment for name, moment in local_moments("Europe/Berlin") if moment.date() < datetime.now(UTC).date()}
    for estimated in (False, True):
        for name in ("night", "", "sunday"):
            operation_id = new_id()
            request = ask(organization_id, operation_id, model=MODEL, quantities=of(images="2", web_searches="1"))
            request.ClearField("input_tokens")
            request.ClearField("max_output_tokens")
            if estimated:
                request.estimate.CopyFrom(pb.TokenCounts(input=1_000, output=100))
            else:
                request.input_tokens, request.max_output_tokens = 1_000, 100
            allowed = await metering.authorize(request)
            # Each unit at its dearest would be 0.145603; at no time are all of them so dear.
            assert allowed.held_amount == usd("0.145601")
            settled = await metering.settle(
                settlement(
                    organization_id,
                    operation_id,
                    model=MODEL,
                    quantities=of(images="2", web_searches="1"),
                    occur_time=stamp_of(at[name]),
                )
            )
            cost = {"": "0.095601", "night": "0.092603", "sunday": "0.145601"}[name]
            assert settled.usage.cost == usd(cost)
            assert Decimal(settled.released_amount.value) == Decimal("0.145601") - Decimal(cost)
    await platform.settled()
    assert await metering.findings() == []


@pytest.mark.own_database
async def test_an_authorized_call_is_settled_by_the_hours_of_the_price_it_was_authorized_at(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await price_by_hours(metering)
    await platform.fund(organization_id, "10")
    await metering.authorize(ask(organization_id, "call", model=MODEL, input_tokens=1_000, max_output_tokens=100))
    later = price(model_id=MODEL, prices=pb.TokenPrices(input="1", output="1"), effective_time=Timestamp(seconds=2))
    await set_price(metering, later)

    night = next(moment for name, moment in local_moments("Europe/Berlin") if name == "night")
    settled = await metering.settle(settlement(organization_id, "call", model=MODEL, occur_time=stamp_of(night)))

    assert settled.usage.cost == usd("0.002603")
    await platform.settled()
    assert await metering.findings() == []


@pytest.mark.own_database
async def test_card_with_hours_is_answered_and_listed_as_it_was_set(metering: Metering) -> None:
    await metering.add_model(MODEL)
    expected = card()
    for one in expected.rates:
        one.service_tier = one.service_tier or "standard"
    mixed = pb.RateCard.FromString(card().SerializeToString())
    mixed.rates.insert(0, mixed.rates.pop(7))

    for number, given in enumerate((card(), mixed)):
        request = price(model_id=MODEL, rate_card=given, effective_time=Timestamp(seconds=number + 1))
        answered = await set_price(metering, request)
        assert answered.rate_card == expected
        assert not answered.HasField("prices")
        assert (await listed(metering, model_id=MODEL))[0] == answered


@pytest.mark.own_database
async def test_margin_on_a_card_with_hours_keeps_them(metering: Metering, organization_id: str) -> None:
    await metering.add_model(MODEL)
    base = await set_price(metering, price(model_id=MODEL, rate_card=card(), effective_time=Timestamp(seconds=1)))
    margin = pb.Margin(price_version_id=base.price_version_id, percent="20")
    request = price(model_id=MODEL, margin=margin, organization_id=organization_id, effective_time=Timestamp(seconds=1))
    made = await set_price(metering, request)

    assert (made.rate_card.hours, made.rate_card.time_zone) == (base.rate_card.hours, "Europe/Berlin")
    night = next(moment for name, moment in local_moments("Europe/Berlin") if name == "night")
    recorded = await metering.record(usage(organization_id, model=MODEL, occur_time=stamp_of(night)))
    assert recorded.usage.cost == usd("0.0015618")
    assert await metering.findings() == []


@pytest.mark.own_database
async def test_estimate_says_which_hours_hold_and_why(metering: Metering) -> None:
    await price_by_hours(metering)

    async def estimate(moment: datetime) -> pb.EstimateCostResponse:
        request = pb.EstimateCostRequest(
            model_id=MODEL,
            occur_time=stamp_of(moment),
            tokens=pb.TokenCounts(input=1_000, cache_read=1_000),
            quantities=[unit_pb2.Quantity(unit="images", value="1")],
        )
        return await metering.models.EstimateCost(request, metadata=metering.gateway)

    # Clocks go back from 03:00 to 02:00 in the night to Sunday, the 25th of October 2026: both hours are of the night.
    for hour, wall_clock in ((0, "2026-10-25T02:30:00+02:00"), (1, "2026-10-25T02:30:00+01:00")):
        night = await estimate(datetime(2026, 10, 25, hour, 30, tzinfo=UTC))
        assert (night.hours, night.wall_clock) == ("night", wall_clock)
        assert [(line.unit, line.unit_price, line.hours, line.reason) for line in night.lines] == [
            ("input_tokens", "2", "night", "hours night"),
            ("cache_read_tokens", "2", "night", "falls back to input_tokens, hours night"),
            ("images", "0.04", "", "own rate"),
            ("requests", "0.000003", "night", "any tier, hours night"),
        ]
        assert night.cost == usd("0.044003")
    day = await estimate(datetime(2026, 10, 26, 12, tzinfo=UTC))
    assert (day.hours, day.wall_clock, day.cost) == ("", "2026-10-26T13:00:00+01:00", usd("0.048001"))
    assert {line.hours for line in day.lines} == {""}
    now = await metering.models.EstimateCost(pb.EstimateCostRequest(model_id=MODEL), metadata=metering.gateway)
    assert datetime.fromisoformat(now.wall_clock) - datetime.now(UTC) < timedelta(minutes=1)
    assert now.price_version_id == day.price_version_id


SPAN: Final = {"start": "22:00", "end": "06:00"}


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        ({"timeZone": ""}, {"time_zone"}),
        ({"timeZone": "Mars/Olympus"}, {"time_zone"}),
        ({"timeZone": "x" * 65}, {"time_zone"}),
        ({"timeZone": "UTC\n"}, {"time_zone"}),
        ({"hours": []}, {"time_zone", "rates[1].hours"}),
        ({"hours": [{"name": "night", "spans": [SPAN]}, {"name": "late", "spans": [{**SPAN, "start": "21:00"}]}]},
         {"hours[1].spans[0]", "hours[1].name"}),
        ({"hours": [{"name": "night", "spans": [{"start": "22:00", "end": "22:00"}]}]}, {"hours[0].spans[0].end"}),
        ({"hours": [{"name": "night", "spans": [{"start": "24:00", "end": "9:00"}]}]},
         {"hours[0].spans[0].start", "hours[0].spans[0].end"}),
        ({"hours": [{"name": "night", "spans": []}]}, {"hours[0].spans"}),
        ({"hours": [{"name": "night", "spans": [SPAN] * 33}]}, {"hours[0].spans"}),
        ({"hours": [{"name": "Night", "spans": [SPAN]}]}, {"hours[0].name", "rates[1].hours"}),
        ({"hours": [{"name": "night", "spans": [{**SPAN, "weekdays": ["WEEKDAY_UNSPECIFIED"]}]}]},
         {"hours[0].spans[0].weekdays[0]"}),
        ({"hours": [{"name": "night", "spans": [{**SPAN, "weekdays": [8]}]}]}, {"hours[0].spans[0].weekdays[0]"}),
        ({"hours": [{"name": "night", "spans": [{**SPAN, "weekdays": [1, 1]}]}]}, {"hours[0].spans[0].weekdays"}),
        ({"rates": [{"unit": "images", "price": "1", "hours": "night"}]}, {"rates[0].hours"}),
        ({"rates": [{"unit": "images", "price": "1"}, {"unit": "images", "price": "1", "hours": "No"}]},
         {"rates[1].hours", "hours[0].name"}),
    ],
)  # fmt: skip
async def test_hours_that_are_wrong_are_refused_by_name(
    metering: Metering, changed: dict[str, object], fields: set[str]
) -> None:
    good = {
        "rates": [{"unit": "images", "price": "2"}, {"unit": "images", "price": "1", "hours": "night"}],
        "timeZone": "UTC",
        "hours": [{"name": "night", "spans": [SPAN]}],
    }
    given = pb.RateCard()
    json_format.ParseDict(good | changed, given)
    named = await faults(metering.models.SetPrice(price(rate_card=given), metadata=metering.operator))
    assert named.keys() == {f"rate_card.{field}" for field in fields}


@pytest.mark.own_database
async def test_the_example_of_the_page_of_rate_cards_can_be_set(metering: Metering) -> None:
    page = (repository() / "docs" / "rates.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    await metering.add_model(MODEL)
    given = price(model_id=MODEL, rate_card=json_format.Parse(example, pb.RateCard()), validate_only=True)
    assert (await set_price(metering, given)).rate_card.hours[0].name == "night"
