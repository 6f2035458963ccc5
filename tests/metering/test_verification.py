"""`verify` names what differs between metering and billing, and nothing else."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from libs.cli.comparison import Scope, bucket_count, groups
from libs.cli.failures import WrongUse
from libs.cli.terminal.progress import Progress
from libs.cli.verdict import NoVerdict
from libs.common.database_url import plain_url
from libs.common.ids import new_id
from libs.common.status import status_in
from tests.identity.support import Identity
from tests.metering.support import Metering, Platform, eventually, settlement, stamp, usage
from tests.metering.test_admission import ask
from tests.support.charges import Charge, put_billed, put_metered
from tests.support.sharded import in_shard_of
from tollhouse.billing.v1 import charge_pb2 as billing_pb2
from tollhouse.billing.v1 import ledger_pb2
from tollhouse.metering.v1 import charge_pb2 as metering_pb2

pytestmark = [pytest.mark.own_database, pytest.mark.shards]

COMPARED = ("X1_charges_agree", "X2_settled_is_charged", "organizations_exist")
Digest = tuple[int, str, int, Decimal, int]


@pytest.fixture
async def identity(platform: Platform) -> Identity:
    return await platform.start_identity()


@pytest.fixture
async def organization_id(identity: Identity) -> str:
    organization_id, _ = await identity.create_organization()
    return organization_id


async def differences(platform: Platform, scope: Scope | None = None) -> set[tuple[str, str]]:
    """Return the invariants between services that are violated, each with the operation."""
    found = await platform.verify(scope)
    pairs = [finding.split(":")[0].split(" ", 1) for finding in found if finding.startswith(COMPARED)]
    return {(invariant, subject) for invariant, subject in pairs}


async def digests(platform: Platform, organization_id: str, buckets: int = 4) -> tuple[list[Digest], list[Digest]]:
    """Return the digests that metering and billing give over gRPC."""
    ours = metering_pb2.DigestChargesRequest(organization_ids=[organization_id], bucket_count=buckets)
    theirs = billing_pb2.DigestChargesRequest(organization_ids=[organization_id.upper()], bucket_count=buckets)
    metering, billing = platform.metering, platform.ledger
    streams = (
        metering.charge.DigestCharges(ours, metadata=metering.operator),
        billing.charge.DigestCharges(theirs, metadata=billing.metadata),
    )
    mine, other = [[one async for piece in stream for one in piece.digests] for stream in streams]
    assert {one.organization_id for one in (*mine, *other)} <= {organization_id}
    first, second = [
        sorted((d.bucket, d.total.currency_code, d.charge_count, Decimal(d.total.value), d.digest) for d in part)
        for part in (mine, other)
    ]
    return first, second


async def used(platform: Platform, organization_id: str, *operation_ids: str) -> None:
    await platform.metering.record_batch([usage(organization_id, operation_id) for operation_id in operation_ids])
    await platform.settled()


def count(part: list[Digest]) -> int:
    return sum(digest[2] for digest in part)


async def test_charges_of_every_kind_have_the_same_digest_in_both_services(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    await metering.add_model("free")
    await metering.set_price("free", price_in="0", price_out="0")
    await metering.add_model("odd")
    await metering.set_price("odd", price_in="0.001", price_out="0.0037")
    await used(platform, organization_id, "call-1", "call-'2'", 'call-"3"', "call-\\4", "~" * 255)
    await metering.record(usage(organization_id, "free", model="free"))
    await metering.record(usage(organization_id, "odd", model="odd"))
    await metering.authorize(ask(organization_id, "held"))
    await metering.settle(settlement(organization_id, "held"))
    await metering.authorize(ask(organization_id, "held-free", model="free"))
    await metering.settle(settlement(organization_id, "held-free", model="free"))
    await platform.settled()

    mine, other = await digests(platform, organization_id)

    assert mine == other
    assert count(mine) == 7
    assert await platform.verify() == []


async def test_usage_that_is_priced_late_counts_once_it_is_charged(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.add_model("late")
    await metering.record(usage(organization_id, "late-1", model="late"))
    await used(platform, organization_id, "priced")
    assert [count(part) for part in await digests(platform, organization_id)] == [1, 1]

    await metering.set_price("late")

    await eventually(platform.billing_charges, lambda charges: len(charges) == 2)
    await platform.settled()
    mine, other = await digests(platform, organization_id)
    assert mine == other
    assert count(mine) == 2
    assert await platform.verify() == []


async def test_charges_that_wait_or_are_refused_are_in_no_digest(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await used(platform, organization_id, "confirmed")
    await metering.add_model("euro")
    await metering.set_price("euro", currency_code="EUR")
    await platform.stop_billing()
    await metering.record(usage(organization_id, "waits"))
    await platform.execute("UPDATE metering.outbox SET state = 'REFUSED', next_attempt_time = now() + interval '1 day'")
    await platform.start_billing()

    mine, other = await digests(platform, organization_id)

    assert mine == other
    assert count(mine) == 1
    assert await differences(platform) == set()


async def plant(platform: Platform, organization_id: str, count: int) -> set[tuple[str, str]]:
    """Record usage and damage three charges of it in billing, one in metering; return what is to be found."""
    await used(platform, organization_id, *(f"call-{number}" for number in range(count)))
    for number, damage in enumerate(
        (
            "DELETE FROM billing.transactions",
            "UPDATE billing.transactions SET amount = amount + 0.000000001",
            "UPDATE billing.transactions SET currency_code = 'EUR'",
            "DELETE FROM metering.usage_operations",
        ),
        start=3,
    ):
        where = "WHERE organization_id = $1 AND operation_id = $2"
        await platform.execute(f"{damage} {where}", organization_id, f"call-{number}")
    await platform.execute("DELETE FROM metering.usage_records WHERE operation_id = 'call-6'")
    return {
        ("X2_settled_is_charged", "call-3"),
        ("X1_charges_agree", "call-4"),
        ("X1_charges_agree", "call-5"),
        ("X1_charges_agree", "call-6"),
    }


@pytest.mark.parametrize("bucket_charges", [4_000, 3])
async def test_every_difference_is_named_with_one_bucket_and_with_many(
    platform: Platform, identity: Identity, organization_id: str, monkeypatch: pytest.MonkeyPatch, bucket_charges: int
) -> None:
    monkeypatch.setattr("libs.cli.comparison._BUCKET_CHARGES_MAX", bucket_charges)
    monkeypatch.setattr("libs.cli.comparison._PAGE_SIZE", 2)
    monkeypatch.setattr("libs.cli.comparison._UNCLEAR_MAX", 3)
    neighbour, _ = await identity.create_organization()
    await used(platform, neighbour, "call-3", "call-4")

    expected = await plant(platform, organization_id, 20)
    await platform.execute(
        "DELETE FROM billing.transactions WHERE organization_id = $1 AND operation_id = 'call-3'", neighbour
    )

    assert await differences(platform) == expected
    assert await differences(platform, Scope(organization_id)) == expected
    assert await differences(platform, Scope(neighbour)) == {("X2_settled_is_charged", "call-3")}


async def test_organization_that_only_metering_has_is_compared_too(platform: Platform, organization_id: str) -> None:
    await used(platform, organization_id, "call-1")
    for table in ("transactions", "accounts"):
        await platform.execute(f"DELETE FROM billing.{table}")  # noqa: S608

    assert await differences(platform) == {("X2_settled_is_charged", "call-1")}


async def test_operators_debits_are_no_violations(platform: Platform, organization_id: str) -> None:
    await platform.fund(organization_id)
    await used(platform, organization_id, "call-1")
    for number in range(5):
        await platform.ledger.debit(organization_id, f"by-hand-{number}", "0.5", mode=ledger_pb2.DEBIT_MODE_MUST_POST)
    assert await differences(platform) == set()

    # Nor where their bucket has to be opened.
    await platform.execute("DELETE FROM billing.transactions WHERE operation_id = 'call-1'")
    assert await differences(platform) == {("X2_settled_is_charged", "call-1")}


async def test_listed_charges_say_who_asked_for_them(platform: Platform, organization_id: str) -> None:
    await platform.fund(organization_id)
    await used(platform, organization_id, "call-1")
    await platform.ledger.debit(organization_id, "by-hand", "0.5", mode=ledger_pb2.DEBIT_MODE_MUST_POST)

    request = billing_pb2.ListChargesRequest(organization_id=organization_id)
    page = await platform.ledger.charge.ListCharges(request, metadata=platform.ledger.metadata)

    assert [(charge.operation_id, charge.source) for charge in page.charges] == [
        ("by-hand", ""),
        ("call-1", "metering"),
    ]


async def test_debit_by_hand_under_the_operation_of_usage_is_compared_with_it(
    platform: Platform, organization_id: str
) -> None:
    await used(platform, organization_id, "call-1", "call-2")
    await platform.execute("UPDATE billing.transactions SET metadata = NULL WHERE operation_id = 'call-1'")
    assert await differences(platform) == set()

    await platform.execute("UPDATE billing.transactions SET amount = 7 WHERE operation_id = 'call-1'")
    assert await differences(platform) == {("X1_charges_agree", "call-1")}


class _Watching(Progress):
    """Tells when both services have read some rows."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.read = asyncio.Event()
        self._rows = rows

    def note(self, step: str, done: int = 0, total: int | None = None) -> None:
        if step == "comparing charges" and done >= self._rows:
            self.read.set()


async def test_charge_that_arrives_while_it_is_looked_at_is_no_violation(
    platform: Platform, organization_id: str
) -> None:
    await used(platform, organization_id, "call-1", "call-2")
    rows = "FROM billing.transactions WHERE operation_id = 'call-1'"
    connection = await asyncpg.connect(plain_url(platform.admin_url))
    await connection.execute(in_shard_of(organization_id, f"CREATE TABLE public.away AS SELECT * {rows}"))
    await connection.execute(in_shard_of(organization_id, f"DELETE {rows}"))
    watching = _Watching(rows=4)

    verifying = asyncio.create_task(platform.verify(None, watching))
    await watching.read.wait()
    back = "INSERT INTO billing.transactions SELECT * FROM public.away"
    await connection.execute(in_shard_of(organization_id, back))
    await connection.close()

    assert [finding for finding in await verifying if finding.startswith(COMPARED)] == []


async def test_verification_while_calls_are_charged_finds_nothing(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await used(platform, organization_id, "first")
    verifying = asyncio.create_task(platform.verify())
    number = 0
    while not verifying.done():
        number += 1
        await metering.record(usage(organization_id, f"beside-{number}"))
    assert await verifying == []
    assert number > 1


async def test_since_compares_only_what_is_later_and_forgives_its_border(
    platform: Platform, identity: Identity, organization_id: str
) -> None:
    since = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    border = since - timedelta(milliseconds=1)
    connection = await asyncpg.connect(plain_url(platform.admin_url))
    try:
        for moment, name in ((since - timedelta(hours=1), "early"), (border, "border"), (since, "at"), (since, "gone")):
            charge = Charge(organization_id, name, time=moment)
            await put_metered(connection, charge)
            if name not in ("early", "gone"):
                await put_billed(connection, charge)
        for number in range(9):
            later = Charge(organization_id, f"later-{number}", time=since + timedelta(minutes=number + 1))
            await put_metered(connection, later)
            await put_billed(connection, later)
    finally:
        await connection.close()
    scope = Scope(since_time=Timestamp(seconds=int(since.timestamp())))

    # "border" was used before the time and charged after it; "early" is a violation before it.
    assert await differences(platform, scope) == {("X2_settled_is_charged", "gone")}
    assert await differences(platform) == {("X2_settled_is_charged", "gone"), ("X2_settled_is_charged", "early")}


async def test_since_after_everything_finds_nothing(platform: Platform, organization_id: str) -> None:
    await plant(platform, organization_id, 8)

    assert await differences(platform, Scope(since_time=stamp(hours=1))) == set()


async def test_organization_that_nobody_knows_is_an_error(platform: Platform, organization_id: str) -> None:
    await used(platform, organization_id, "call-1")
    with pytest.raises(WrongUse, match="There is no organization"):
        await platform.verify(Scope(new_id()))
    nobody = new_id()
    await platform.fund(nobody)
    assert await differences(platform, Scope(nobody)) == {("organizations_exist", f"organizations/{nobody}")}


async def test_service_that_is_away_is_named_and_gives_no_verdict(platform: Platform, organization_id: str) -> None:
    await plant(platform, organization_id, 8)
    await platform.stop_billing()

    with pytest.raises(NoVerdict, match="billing did not complete its part"):
        await platform.verify()


async def test_service_that_dies_in_the_middle_is_named_and_gives_no_verdict(
    platform: Platform, organization_id: str
) -> None:
    await plant(platform, organization_id, 8)
    watching = _Watching(rows=1)

    verifying = asyncio.create_task(platform.verify(None, watching))
    await watching.read.wait()
    await platform.stop_billing()

    with pytest.raises(NoVerdict, match="billing did not complete its part"):
        await verifying


async def test_senseless_requests_are_refused_with_the_field_at_fault(platform: Platform, organization_id: str) -> None:
    some = [new_id() for _ in range(1000)]
    later = Timestamp(seconds=2**60)
    lists: dict[str, dict[str, Any]] = {
        "organization_id": {"operation_ids": ["call-1"]},
        "operation_ids": {"organization_id": organization_id, "operation_ids": ["a"] * 1001},
        "operation_ids[0]": {"organization_id": organization_id, "operation_ids": ["a b"]},
        "buckets": {"organization_id": organization_id, "buckets": [4], "bucket_count": 4},
        "buckets[0]": {"organization_id": organization_id, "buckets": [-1], "bucket_count": 4},
        "bucket_count": {"organization_id": organization_id, "buckets": [0], "bucket_count": 3},
        "since_time": {"since_time": later},
        "until_time": {"until_time": Timestamp(nanos=-1)},
    }
    alone: dict[str, dict[str, Any]] = {
        "bucket_count": {"bucket_count": 4},
        "operation_ids": {
            "organization_id": organization_id,
            "operation_ids": ["a"],
            "buckets": [0],
            "bucket_count": 1,
        },
    }
    asked: dict[str, dict[str, Any]] = {
        "organization_ids": {"bucket_count": 1},
        "organization_ids[0]": {"organization_ids": ["x"], "bucket_count": 1},
        "bucket_count": {"organization_ids": [organization_id], "bucket_count": 6},
        "since_time": {"organization_ids": [organization_id], "bucket_count": 1, "since_time": later},
    }
    many: dict[str, dict[str, Any]] = {
        "organization_ids": {"organization_ids": [*some, new_id()], "bucket_count": 1},
        "bucket_count": {"organization_ids": some, "bucket_count": 128},
    }
    metering, billing = platform.metering, platform.ledger
    for fields in (lists, alone):
        for name, values in fields.items():
            ours, theirs = metering_pb2.ListChargesRequest(**values), billing_pb2.ListChargesRequest(**values)
            assert await at_fault(metering.charge.ListCharges(ours, metadata=metering.operator)) == {name}
            assert await at_fault(billing.charge.ListCharges(theirs, metadata=billing.metadata)) == {name}
    for fields in (asked, many):
        for name, values in fields.items():
            mine, other = metering_pb2.DigestChargesRequest(**values), billing_pb2.DigestChargesRequest(**values)
            assert await at_fault(metering.charge.DigestCharges(mine, metadata=metering.operator).read()) == {name}
            assert await at_fault(billing.charge.DigestCharges(other, metadata=billing.metadata).read()) == {name}


async def at_fault(call: Awaitable[object]) -> set[str]:
    """Return the fields that a refusal names."""
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call
    status = status_in(refusal.value)
    assert status is not None
    named = error_details_pb2.BadRequest()
    assert any(detail.Unpack(named) for detail in status.details)
    return {violation.field for violation in named.field_violations}


def test_buckets_hold_a_few_thousand_charges_and_requests_stay_within_their_limits() -> None:
    assert [bucket_count(charges) for charges in (0, 1, 4_000, 4_001, 10_000, 10_000_000)] == [1, 1, 1, 2, 4, 4096]
    assert bucket_count(10**12) == 65_536
    sizes = [(str(number), 10 ** (number % 11)) for number in range(5_000)]
    grouped = list(groups(sizes))
    assert sorted(one for _, ids in grouped for one in ids) == sorted(name for name, _ in sizes)
    assert all(len(ids) <= 1_000 and len(ids) * buckets <= 65_536 for buckets, ids in grouped)
