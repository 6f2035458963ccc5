"""Damage to the corrections of jobs is found."""

import pytest

from tests.metering.rerates.calls import done, later, rerate
from tests.metering.support import Metering, Platform, usage

pytestmark = [pytest.mark.shards, pytest.mark.own_database]

PLANTED = {
    "its job does not exist": "UPDATE metering.usage_corrections SET operation_id = 'rerate:' || usage_id",
    "it changes something else than what the usage costs": (
        "UPDATE metering.usage_correction_lines SET latency_ms = 7 WHERE added"
    ),
}


@pytest.mark.parametrize("detail", PLANTED)
async def test_damage_to_what_a_job_has_corrected_is_found(
    platform: Platform, metering: Metering, organization_id: str, detail: str
) -> None:
    await metering.record(usage(organization_id, "a"))
    await metering.set_price(price_in="5", price_out="20", effective_time=later(2))
    assert (await done(metering, rerate(organization_id))).sums.changed_count == 1
    assert await metering.findings() == []
    await platform.execute(PLANTED[detail])
    found = [one for one in await metering.findings() if one.startswith("rerates_change_prices_alone")]
    assert len(found) == 1
    assert found[0].endswith(detail)
