"""Damage to corrections is found: by metering's invariants, and by the comparison with billing in both directions."""

import pytest

from libs.common.clock import SystemClock
from libs.common.integrity.verification import Verification
from libs.common.shards import Shards
from services.metering.invariants import CHECKS
from tests.metering.corrections.calls import amend, tokens, void
from tests.metering.corrections.test_corrections_against_reference import limit
from tests.metering.support import Metering, Platform, usage
from tests.support.invariants import findings_of

pytestmark = [pytest.mark.shards, pytest.mark.own_database]

PLANTED = {
    "corrections_follow_usage": "UPDATE metering.usage_correction_lines SET input = input + 1 WHERE NOT added",
    "corrections_move_what_they_change": (
        "UPDATE metering.usage_correction_charges SET amount = amount + 1 WHERE reverses_operation_id IS NULL"
    ),
    "corrections_give_back_charges": (
        "UPDATE metering.usage_correction_charges SET reverses_operation_id = 'nothing'"
        " WHERE reverses_operation_id IS NOT NULL"
    ),
    "corrected_costs_derive_from_prices": (
        "UPDATE metering.usage_correction_lines SET cost = cost + 0.000000001 WHERE added"
    ),
    "corrected_usage_waits": (
        "INSERT INTO metering.unpriced_usages SELECT organization_id, usage_id, occur_time, model, true"
        " FROM metering.usage_records"
    ),
    "summaries_equal_usage": "UPDATE metering.usage_correction_lines SET output = output + 1 WHERE NOT added",
    "limits_used_matches_usage": "UPDATE metering.usage_correction_lines SET counted[1] = 0 WHERE added",
}


async def corrected(metering: Metering, organization_id: str) -> None:
    """Record usage that is amended, and usage that is voided."""
    await limit(metering, organization_id)
    await metering.record(usage(organization_id, "amended"))
    await metering.record(usage(organization_id, "voided"))
    await amend(metering, organization_id, "amended", tokens=tokens(3000, 100))
    await void(metering, organization_id, "voided")


async def test_each_kind_of_damage_is_found(
    platform: Platform, metering: Metering, metering_shards: Shards, organization_id: str
) -> None:
    await corrected(metering, organization_id)
    await platform.settled()
    assert await metering.findings() == []
    fired = set()
    for statement in PLANTED.values():
        await platform.execute(statement)
        fired |= {finding.split(" ")[0] for finding in await metering.findings()}
    assert fired >= set(PLANTED)
    found = await findings_of(Verification(metering_shards, SystemClock(), CHECKS, rows_max=10_000))
    for rows_max in (1, 2):
        verification = Verification(metering_shards, SystemClock(), CHECKS, rows_max=rows_max)
        assert await findings_of(verification) == found


async def test_movement_that_only_one_service_has_is_named(platform: Platform, metering: Metering) -> None:
    identity = await platform.start_identity()
    organization_id, _ = await identity.create_organization()
    await corrected(metering, organization_id)
    await platform.settled()
    assert await platform.verify() == []
    await platform.execute("DELETE FROM billing.transactions WHERE kind = 'REVERSAL'")
    missing = [one for one in await platform.verify() if "billing has no such charge" in one]
    assert len(missing) == 1
    await platform.execute("DELETE FROM metering.usage_correction_charges WHERE reverses_operation_id IS NULL")
    unknown = [one for one in await platform.verify() if "metering has no such charge" in one]
    assert len(unknown) == 1
