"""Rates for hours of the day in price lists: our own, and the off-peak prices of LiteLLM's map."""

import json
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.metering.support import Metering, Platform, usage
from tests.metering.test_hour_rates import MODEL, stamp_of
from tests.metering.test_quantities import usd
from tests.metering.test_set_price import listed
from tollhouse.metering.v1 import model_pb2 as pb

pytestmark = pytest.mark.own_database

YAML: Final = """
models:
  - model_id: hourly
    currency_code: USD
    provider_currency_code: USD
    prices: {input: 3, output: 6}
    time_zone: Europe/Berlin
    hours:
      - name: night
        spans:
          - {start: 22:00, end: 06:00, weekdays: [sunday, monday]}
          - {start: "12:00", end: "13:00"}
    rates:
      - {unit: input_tokens, price: 1, per: 1000000, hours: night, provider_cost: 0.5}
"""


async def outcome(metering: Metering, **fields: object) -> pb.ImportOutcome:
    request = pb.ImportModelsRequest(**fields)  # type: ignore[arg-type]
    (found,) = (await metering.models.ImportModels(request, metadata=metering.operator)).outcomes
    return found


async def test_our_own_price_list_brings_hours_and_brings_them_once(metering: Metering) -> None:
    first = await outcome(metering, yaml=YAML.encode())
    assert (first.result, first.reason, list(first.warnings)) == (pb.IMPORT_RESULT_IMPORTED, "", [])

    version = (await listed(metering, model_id=MODEL))[0]

    assert version.rate_card.time_zone == "Europe/Berlin"
    assert version.rate_card.hours == [
        pb.Hours(
            name="night",
            spans=[
                pb.Span(start="22:00", end="06:00", weekdays=[pb.WEEKDAY_MONDAY, pb.WEEKDAY_SUNDAY]),
                pb.Span(start="12:00", end="13:00"),
            ],
        )
    ]
    assert version.rate_card.rates[-1].hours == "night"
    assert (await outcome(metering, yaml=YAML.encode())).result == pb.IMPORT_RESULT_UNCHANGED
    changed = YAML.replace("13:00", "14:00").replace("price: 1,", "price: 2,").encode()
    assert list((await outcome(metering, yaml=changed, validate_only=True)).changes) == [
        pb.RateChange(
            unit="input_tokens",
            service_tier="standard",
            before="1/1000000, cost 0.5",
            after="2/1000000, cost 0.5",
            hours="night",
        ),
        pb.RateChange(
            before="mon/sun 22:00-06:00, 12:00-13:00 Europe/Berlin",
            after="mon/sun 22:00-06:00, 12:00-14:00 Europe/Berlin",
            hours="night",
        ),
    ]


@pytest.mark.parametrize(
    ("written", "instead", "reason"),
    [
        ("Europe/Berlin", "Mars/Olympus", "time_zone is not an IANA time zone"),
        ("time_zone: Europe/Berlin", "time_zone: [UTC]", "has a time_zone that is not a text"),
        ("    time_zone: Europe/Berlin\n", "", "time_zone must be given with hours"),
        ("hours: night", "hours: noon", "rates[0].hours must be the name of hours of the card"),
        ("hours: night", "hours: [night]", "has hours that are not a name: rates[0]"),
        ("name: night", "nane: night", "has hours of which one has other keys than name, spans"),
        ("end: 06:00", "end: 6", "hours[0].spans[0].end must be a time from 00:00 to 24:00"),
        ("end: 06:00", "end: 22:00", "hours[0].spans[0].end must not be the start"),
        ('end: "13:00"', 'end: "23:00"', "hours[0].spans[1] overlaps hours[0].spans[0]"),
        ("[sunday, monday]", "[sunday, someday]", "has weekdays that are not a list of monday to sunday"),
        ("[sunday, monday]", "[sunday, sunday]", "hours[0].spans[0].weekdays must be days of the week"),
        ("start: 22:00", "begin: 22:00", "has hours[0].spans of which one has other keys than end, start, weekdays"),
    ],
)
async def test_hours_of_our_own_list_that_are_wrong_skip_their_entry_with_the_reason(
    metering: Metering, written: str, instead: str, reason: str
) -> None:
    found = await outcome(metering, yaml=YAML.replace(written, instead).encode())
    assert found.result == pb.IMPORT_RESULT_SKIPPED
    assert reason in found.reason


async def test_off_peak_prices_of_the_public_map_come_in_and_are_charged(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    entry = {
        "input_cost_per_token": 3e-07,
        "output_cost_per_token": 1.2e-06,
        "cache_read_input_token_cost": 6e-09,
        "off_peak_pricing": {
            "input_cost_per_token": 1.5e-07,
            "output_cost_per_token": 6e-07,
            "cache_read_input_token_cost": 3e-09,
            "windows": [
                {"hours_utc": ["00:00-01:00", "04:00-06:00", "10:00-00:00"], "weekdays": [1, 2, 3, 4, 5]},
                {"hours_utc": "00:00-00:00", "weekdays": [6, 7]},
            ],
        },
    }
    document = json.dumps({MODEL: entry}).encode()
    long_ago = Timestamp(seconds=1)
    found = await outcome(metering, litellm_json=document, margin_percent="100", effective_time=long_ago)
    assert (found.result, list(found.warnings), list(found.ignored_price_keys)) == (pb.IMPORT_RESULT_IMPORTED, [], [])
    again = await outcome(metering, litellm_json=document, margin_percent="100", effective_time=long_ago)
    assert again.result == pb.IMPORT_RESULT_UNCHANGED
    (version,) = await listed(metering, model_id=MODEL)
    assert version.rate_card.time_zone == "UTC"
    assert len(version.rate_card.hours[0].spans) == 4

    day = datetime.now(UTC).replace(minute=30) - timedelta(days=8)
    for number in range(7):
        moment = day + timedelta(days=number, hours=3 * number)
        peak = moment.isoweekday() <= 5 and moment.hour in (1, 2, 3, 6, 7, 8, 9)
        recorded = await metering.record(usage(organization_id, model=MODEL, occur_time=stamp_of(moment)))
        assert recorded.usage.cost == usd("0.00084" if peak else "0.00042"), moment
        assert recorded.usage.provider_cost == usd("0.00042" if peak else "0.00021")
    await platform.settled()
    assert await metering.findings() == []
