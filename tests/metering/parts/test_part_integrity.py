"""Damage to parts of calls is found, by metering itself and by the comparison with billing."""

from decimal import Decimal
from typing import Final

import pytest

from libs.cli.comparison import Scope
from libs.common.clock import SystemClock
from libs.common.integrity.verification import Verification
from libs.common.shards import Shards
from services.metering.invariants import CHECKS
from tests.metering.parts.support import Call, put_off_charges
from tests.metering.support import Metering, Platform, stamp, usage
from tests.metering.test_verification import differences, digests
from tests.support.clock import FixedClock
from tests.support.invariants import findings_of

pytestmark = pytest.mark.own_database

DAMAGE: Final = {
    # What is done, what is found, and where.
    "UPDATE metering.settlement_parts SET captured_amount = captured_amount + 1 WHERE operation_id = 'ended'"
    " AND part = 1": ("parts_add_up", "usages/ended/parts/1", "it captured 0.003500000 after 0, but says 1.0035"),
    "DELETE FROM metering.settlement_parts WHERE operation_id = 'ended' AND part = 1": (
        "parts_add_up",
        "usages/ended/parts/2",
        "the part before it is missing",
    ),
    "DELETE FROM metering.settlement_parts WHERE operation_id = 'ended' AND part = 2": (
        "parts_add_up",
        "usages/ended/parts/1",
        "the parts captured 0.003500000, but the usage says 0.004500000",
    ),
    "DELETE FROM metering.settlement_parts WHERE operation_id = 'ended'": (
        "parts_add_up",
        "usages/ended",
        "it has no parts",
    ),
    "UPDATE metering.usage_records SET captured_before = NULL WHERE operation_id = 'ended'": (
        "parts_add_up",
        "usages/ended/parts/2",
        "the parts captured 0.004500000, but the usage says nothing",
    ),
    "UPDATE metering.settlement_parts SET currency_code = 'EUR' WHERE operation_id = 'ended' AND part = 2": (
        "parts_add_up",
        "usages/ended/parts/2",
        "it has another currency than the part before it",
    ),
    "DELETE FROM metering.usage_operations WHERE operation_id = 'open'": (
        "parts_add_up",
        "usages/open/parts/1",
        "its call has no operation",
    ),
    "DELETE FROM metering.settlement_parts WHERE operation_id = 'open'": (
        "operations_are_usage",
        "usages/open",
        "the operation is settled in parts, but has none",
    ),
    "UPDATE metering.usage_operations SET fingerprint = '' WHERE operation_id = 'plain'": (
        "operations_are_usage",
        "usages/plain",
        "the operation is settled in parts, but has none",
    ),
    "UPDATE metering.outbox SET amount = amount + 1 WHERE hold_operation_id IS NOT NULL": (
        "charges_come_from_usage",
        "charges/part",
        "the charge differs from the amount of the part",
    ),
    "UPDATE metering.outbox SET hold_operation_id = 'ended' WHERE hold_operation_id IS NOT NULL": (
        "charges_come_from_usage",
        "charges/part",
        "the charge differs from the amount of the part",
    ),
    "UPDATE metering.outbox SET operation_id = 'ghost' WHERE hold_operation_id IS NOT NULL": (
        "charges_come_from_usage",
        "charges/ghost",
        "the charge has no part",
    ),
    "UPDATE metering.outbox SET amount = amount + 0.000000001 WHERE operation_id = 'waits'": (
        "charges_come_from_usage",
        "charges/waits",
        "the charge differs from the cost of the usage",
    ),
}


async def settle_calls(platform: Platform, organization_id: str) -> None:
    """A call that ended, one that goes on, one without parts; and one each whose charges wait for billing."""
    metering = platform.metering
    ended, unended, waits, unsent = (
        Call(metering, organization_id, name) for name in ("ended", "open", "waits", "part")
    )
    for call in (ended, unended, waits, unsent):
        await call.authorize()
    for made in (100, 200):
        await ended.part(1_000, made)
    await ended.last(1_000, 300)
    await unended.part(1_000, 100)
    await waits.part(1_000, 100)
    await metering.record(usage(organization_id, "plain"))
    await platform.settled()
    await platform.stop_billing()
    await waits.last(1_000, 200)
    await unsent.part(1_000, 100)
    await put_off_charges(platform)
    await platform.start_billing()


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damage_to_parts_is_found_wherever_ranges_end(
    platform: Platform, metering: Metering, metering_shards: Shards, organization_id: str, damage: str
) -> None:
    await settle_calls(platform, organization_id)
    invariant, resource, detail = DAMAGE[damage]
    if resource == "charges/part":
        query = "SELECT part_id FROM metering.settlement_parts WHERE operation_id = 'part'"
        resource = f"charges/{await platform.value(query)}"
    # By this clock all ids are old, so that tables are compared by digests.
    later = FixedClock(SystemClock().now().replace(year=SystemClock().now().year + 1))
    clocks = (SystemClock(), later)
    for clock in clocks:
        found = await findings_of(Verification(metering_shards, clock, CHECKS, rows_max=1_000))
        assert {one.invariant for one in found} <= {"charges_do_not_wait", "months_are_ready"}

    await platform.execute(damage)

    for clock in clocks:
        for rows_max in (1, 2, 1_000):
            found = await findings_of(Verification(metering_shards, clock, CHECKS, rows_max=rows_max))
            named = [one.detail for one in found if (one.invariant, one.resource) == (invariant, resource)]
            assert len(named) == 1, (rows_max, found)
            assert named[0].startswith(detail), (rows_max, named)


@pytest.mark.shards
async def test_charges_of_parts_have_the_same_digest_in_both_services_and_differences_are_named(
    platform: Platform, metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.cli.comparison._PAGE_SIZE", 2)
    monkeypatch.setattr("services.metering.charge.charges.ROWS_WANTED", 2)
    monkeypatch.setattr("services.metering.charge.charges._SCANNED_MAX", 3)
    await settle_calls(platform, organization_id)

    mine, other = await digests(platform, organization_id)
    assert mine == other
    # Two parts and the end of one call, a part of each of two others, and the plain one. The others wait.
    assert (sum(one[2] for one in mine), sum(one[3] for one in mine)) == (6, Decimal("0.0160"))
    assert await differences(platform) == set()

    parts = (
        "WHERE operation_id IN (SELECT part_id FROM metering.settlement_parts WHERE operation_id = '{}' AND part = 1)"
    )
    ended, unended = [
        str(await platform.value(f"SELECT operation_id FROM billing.transactions {parts.format(name)}"))  # noqa: S608
        for name in ("ended", "open")
    ]
    await platform.execute("DELETE FROM billing.transactions WHERE operation_id = $1", ended)
    await platform.execute("UPDATE billing.transactions SET amount = 7 WHERE operation_id = $1", unended)
    await platform.execute("UPDATE billing.transactions SET amount = 8 WHERE operation_id = 'ended'")

    expected = {("X2_settled_is_charged", ended), ("X1_charges_agree", unended), ("X1_charges_agree", "ended")}
    assert await differences(platform) == expected
    assert await differences(platform, Scope(organization_id)) == expected
    assert await differences(platform, Scope(since_time=stamp(hours=-1))) == expected
    assert await differences(platform, Scope(since_time=stamp(hours=1))) == set()


@pytest.mark.shards
async def test_lists_of_charges_go_past_calls_that_are_not_ended(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    """A page is not taken for the last one because calls on it have no usage yet."""
    for number in range(9):
        call = Call(metering, organization_id, f"call-{number}")
        await call.authorize()
        await call.part(0, 0)  # Nothing to charge.
    await metering.record(usage(organization_id, "plain"))
    await platform.settled()

    assert await metering.charges() == {(organization_id, "plain"): Decimal("0.0035")}
    assert await platform.verify() == []
