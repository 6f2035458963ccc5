"""Metering's invariants find each kind of damage wherever ranges of rows end, and nothing while usage arrives."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.clock import SystemClock
from libs.common.ids import new_id
from libs.common.integrity.verification import Verification
from libs.common.shards import Shards
from services.metering.invariants import CHECKS
from tests.metering.support import Metering, Platform, stamp, usage
from tests.support.clock import FixedClock
from tests.support.invariants import findings_of
from tollhouse.common.v1 import integrity_pb2
from tollhouse.metering.v1 import model_pb2

PLANTED = {
    "operations_are_usage": ("DELETE FROM metering.usage_operations WHERE operation_id = 'call-1'"),
    "charges_come_from_usage": (
        "INSERT INTO metering.outbox SELECT organization_id, 'ghost', 'DEBIT', 'PENDING', 1, 'USD', NULL, 'm', 0,"
        " NULL,"
        " now() + interval '1 hour', now() FROM metering.usage_records LIMIT 1"
    ),
    "charges_do_not_wait": (
        "INSERT INTO metering.outbox SELECT organization_id, operation_id, 'DEBIT', 'PENDING', cost, 'USD', NULL,"
        " 'm', 0, NULL, now() + interval '1 hour', now() - interval '2 min' FROM metering.usage_records"
        " WHERE operation_id = 'call-1'"
    ),
    "summaries_equal_usage": ("UPDATE metering.usage_hours SET output = output + 1"),
    "months_are_ready": (
        "INSERT INTO metering.usage_records (organization_id, occur_time, usage_id, operation_id, model, input,"
        " output, cache_read, cache_write, reasoning, audio_input, audio_output, image, partial, create_time)"
        " VALUES (gen_random_uuid(), '2001-01-01', gen_random_uuid(), 'old', 'm', 0, 0, 0, 0, 0, 0, 0, 0, false, now())"
    ),
    "costs_derive_from_prices": (
        "UPDATE metering.usage_records SET cost = cost + 0.000000001 WHERE operation_id = 'call-1'"
    ),
    "unpriced_usage_waits": (
        "INSERT INTO metering.unpriced_usages SELECT organization_id, usage_id, '2001-01-01', model"
        " FROM metering.usage_records WHERE operation_id = 'call-1'"
    ),
    "lapses_are_looked_for": (
        "INSERT INTO metering.admission_policies SELECT organization_id, 'MODEL_MAX', 0, NULL, NULL, 'INPUT', now(), 0,"
        " 1, now() FROM metering.usage_operations LIMIT 1"
    ),
    "audit_events_are_chained": (
        # Models and prices belong to the platform: their events are in metering's own schema.
        'UPDATE "metering".audit_events SET sequence = sequence + 1 WHERE sequence = (SELECT max(sequence)'
        ' FROM "metering".audit_events)'
    ),
    "events_are_in_order": "INSERT INTO metering.event_subjects VALUES (gen_random_uuid(), 'thing/1', 1, now())",
    "event_deliveries_move": (
        "INSERT INTO metering.event_deliveries (organization_id, event_id, endpoint_id, subject, sequence, status,"
        " next_attempt_time, start_time) VALUES (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'thing/1', 1,"
        " 'PENDING', now() + interval '1 day', now())"
    ),
}


@pytest.mark.shards
async def test_every_invariant_fires_on_planted_damage_and_is_silent_before(
    platform: Platform, metering: Metering, metering_shards: Shards, organization_id: str
) -> None:
    await metering.record_batch([usage(organization_id, f"call-{number}") for number in range(3)])
    await metering.record_batch([usage(new_id(), f"other-{number}") for number in range(3)])
    await metering.record(usage(new_id(), "free", model="mystery"))
    await platform.settled()
    assert await metering.findings() == []

    fired = set()
    for statement in PLANTED.values():
        await platform.execute(statement)
        fired |= {finding.split(" ")[0] for finding in await metering.findings()}

    assert fired >= set(PLANTED)
    found = await findings_of(Verification(metering_shards, SystemClock(), CHECKS, rows_max=10_000))
    for rows_max in (1, 2, 3):
        verification = Verification(metering_shards, SystemClock(), CHECKS, rows_max=rows_max)
        assert await findings_of(verification) == found


@pytest.mark.shards
async def test_digests_lead_to_the_rows_that_differ_and_to_no_others(
    platform: Platform, metering: Metering, metering_shards: Shards
) -> None:
    organizations = [new_id() for _ in range(6)]
    for organization in organizations:
        await metering.record_batch([usage(organization, f"call-{n}", occur_time=stamp(hours=-n)) for n in range(4)])
    await platform.settled()
    # By this clock all ids are old, so that tables are compared by digests.
    later = FixedClock(datetime.now(UTC) + timedelta(hours=1))
    for rows_max in (1, 3, 100):
        verification = Verification(metering_shards, later, CHECKS, rows_max=rows_max)
        assert await findings_of(verification) == []

    where = "WHERE organization_id = '{}' AND operation_id = 'call-1'"
    for statement, organization in zip(
        (
            "DELETE FROM metering.usage_operations",
            "DELETE FROM metering.usage_records",
            "UPDATE metering.usage_operations SET usage_id = gen_random_uuid()",
            "UPDATE metering.usage_operations SET occur_time = occur_time + interval '1 microsecond'",
            "UPDATE metering.usage_operations SET operation_id = 'renamed'",
        ),
        organizations,
        strict=False,
    ):
        await platform.execute(f"{statement} {where.format(organization)}")
    found = await findings_of(Verification(metering_shards, later, CHECKS, rows_max=100))
    differing = [one for one in found if one.invariant == "operations_are_usage"]
    assert [
        sorted((one.resource, one.detail) for one in differing if one.organization_id == organization)
        for organization in organizations
    ] == [
        [("usages/call-1", "the usage has no operation")],
        [("usages/call-1", "the operation has no usage")],
        *(2 * [[("usages/call-1", "the operation has no usage"), ("usages/call-1", "the usage has no operation")]]),
        [("usages/call-1", "the usage has no operation"), ("usages/renamed", "the operation has no usage")],
        [],
    ]
    # The same is found row by row, and whatever the windows and ranges are.
    assert await findings_of(Verification(metering_shards, SystemClock(), CHECKS)) == found
    for rows_max in (1, 3):
        assert await findings_of(Verification(metering_shards, later, CHECKS, rows_max=rows_max)) == found


async def test_sums_of_hours_are_compared_wherever_ranges_of_rows_end(
    platform: Platform, metering: Metering, metering_shards: Shards, organization_id: str
) -> None:
    for organization in (organization_id, new_id()):
        await metering.record_batch(
            [
                usage(organization, f"{hours}-{n}", occur_time=stamp(hours=-hours))
                for hours in range(5)
                for n in range(3)
            ]
        )
    await platform.settled()
    for rows_max in (1, 2, 3, 4, 100):
        assert await findings_of(Verification(metering_shards, SystemClock(), CHECKS, rows_max=rows_max)) == []

    # An hour is left without its usage, and usage without its hour.
    await platform.execute("DELETE FROM metering.usage_records WHERE operation_id LIKE '3-%'")
    await platform.execute("DELETE FROM metering.usage_operations WHERE operation_id LIKE '3-%'")
    await platform.execute("DELETE FROM metering.usage_hours WHERE hour = (SELECT min(hour) FROM metering.usage_hours)")
    found = await findings_of(Verification(metering_shards, SystemClock(), CHECKS, rows_max=100))
    details = sorted(finding.detail for finding in found)
    assert {finding.invariant for finding in found} == {"summaries_equal_usage"}
    assert details == [
        *(2 * ["summary has 0 requests and cost 0, usage has 3 and 0.010500000"]),
        *(2 * ["summary has 3 requests and cost 0.010500000, usage has 0 and 0"]),
    ]
    for rows_max in (1, 2, 3, 4):
        assert await findings_of(Verification(metering_shards, SystemClock(), CHECKS, rows_max=rows_max)) == found


@pytest.mark.own_database
async def test_since_time_leaves_out_usage_of_earlier_hours_and_checks_whole_hours(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.record_batch([usage(organization_id, f"old-{n}", occur_time=stamp(hours=-30)) for n in range(3)])
    await metering.record_batch([usage(organization_id, f"new-{n}") for n in range(3)])
    await platform.settled()
    await platform.execute("UPDATE metering.usage_records SET cost = cost + 1 WHERE operation_id = 'old-1'")

    async def checked(since_time: Timestamp | None) -> tuple[set[str], int]:
        request = integrity_pb2.VerifyInvariantsRequest(organization_id=organization_id, since_time=since_time)
        pieces = [piece async for piece in metering.integrity.VerifyInvariants(request, metadata=metering.operator)]
        found = {piece.finding.invariant for piece in pieces if piece.HasField("finding")}
        (sums,) = (check for check in pieces[-1].summary.checks if check.invariant == "summaries_equal_usage")
        return found, sums.rows_examined

    assert await checked(None) == ({"costs_derive_from_prices", "summaries_equal_usage"}, 6)
    # An hour that has begun before is compared whole.
    assert await checked(stamp(minutes=-1)) == (set(), 3)
    assert await checked(stamp()) == (set(), 3)
    await platform.execute("UPDATE metering.usage_records SET cost = cost + 1 WHERE operation_id = 'new-1'")
    assert await checked(stamp(minutes=-1)) == ({"costs_derive_from_prices", "summaries_equal_usage"}, 3)


@pytest.mark.shards
async def test_check_during_live_usage_and_late_pricing_finds_no_violation(
    platform: Platform, metering: Metering, metering_shards: Shards
) -> None:
    organizations = [new_id() for _ in range(3)]
    await metering.add_model("late")

    async def work(organization: str) -> None:
        for number in range(20):
            model = "late" if number % 2 else "gpt-4o"
            await metering.record_batch([usage(organization, f"{number}-{n}", model=model) for n in range(5)])
            if number == 10:
                await metering.set_price("late", organization_id=organization)

    workers = asyncio.gather(*map(work, organizations))
    rounds = 0
    while not workers.done():
        assert await findings_of(Verification(metering_shards, SystemClock(), CHECKS, rows_max=30)) == []
        rounds += 1
    await workers
    assert rounds > 0
    await platform.settled()
    assert await metering.findings() == []


@pytest.mark.own_database
async def test_costs_are_recognized_as_rounded_half_to_even(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    """Tokens at a price of a tenth of a billionth per million: 5 million of them cost half a billionth."""
    await metering.add_model("tiny")
    await metering.set_price("tiny", price_in="0.0000005", price_out="0.0000005", cache_read="0.0000005")
    counts = (500, 1_000, 1_500, 2_000, 2_500, 3_000, 3_500, 3_499, 3_501)
    for number, count in enumerate(counts):
        tokens = model_pb2.TokenCounts(input=count - 300, cache_read=300)
        await metering.record(usage(organization_id, f"call-{number}", model="tiny", tokens=tokens))
    await platform.settled()
    assert await metering.findings() == []
    await platform.execute("UPDATE metering.usage_records SET cost = cost + 0.000000001")
    assert len([one for one in await metering.findings() if one.startswith("costs_derive")]) == len(counts)
    await platform.execute("UPDATE metering.usage_records SET cost = cost - 0.000000002")
    assert len([one for one in await metering.findings() if one.startswith("costs_derive")]) == len(counts)


@pytest.mark.shards
@pytest.mark.own_database
async def test_month_without_a_partition_is_found_in_each_shard_also_for_one_organization(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.record(usage(organization_id))
    await platform.settled()
    for only in ("", organization_id):
        request = integrity_pb2.VerifyInvariantsRequest(organization_id=only)
        assert [
            piece.finding
            async for piece in metering.integrity.VerifyInvariants(request, metadata=metering.operator)
            if piece.HasField("finding")
        ] == []
    gone = (datetime.now(UTC).replace(day=1) + timedelta(days=70)).strftime("%Y_%m")
    await platform.execute(f"DROP TABLE metering.usage_records_{gone}")
    found = await metering.findings()
    assert set(found) == {f"months_are_ready partitions/{gone}: is missing"}
    assert len(found) == 1
