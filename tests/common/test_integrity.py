"""A verification says how far it is, keeps what it tells bounded, and never sums up what it has not read."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Final, cast

import grpc
import pytest

from libs.common import database as database_module
from libs.common.clock import SystemClock
from libs.common.database import Database
from libs.common.ids import new_id
from libs.common.integrity.differences import Differences
from libs.common.integrity.domain import (
    ORGANIZATION,
    Column,
    Finding,
    Invariant,
    Progress,
    Scope,
    Summary,
    Sweep,
    Walk,
)
from libs.common.integrity.reading import FINDINGS_MAX, CheckFailed
from libs.common.integrity.servicer import IntegrityServicer
from libs.common.integrity.verification import Part, Verification, _Run
from libs.common.shards import Shards
from tollhouse.common.v1 import integrity_pb2 as pb

pytestmark = pytest.mark.shards

RULE: Final = Invariant("nothing_is_wrong", "Something is wrong.")
OTHER_RULE: Final = Invariant("nothing_else_is_wrong", "Something else is wrong.")
ONCE: Final = Walk("nothing", (), (RULE,), "SELECT '', NULL, '', '' WHERE false", organization_column="")


def _once(statement: str) -> Walk:
    return Walk("nothing", (), (RULE, OTHER_RULE), statement, organization_column="")


async def _pieces(verification: Verification) -> list[Finding | Progress | Summary]:
    return [piece async for piece in verification.verify()]


def _summary(pieces: list[Finding | Progress | Summary]) -> Summary:
    summary = pieces[-1]
    assert isinstance(summary, Summary)
    return summary


async def test_progress_is_sent_while_a_statement_runs(billing_shards: Shards) -> None:
    walks = (
        Walk("accounts", (ORGANIZATION, Column("account_id", "uuid")), (RULE,), "SELECT '', NULL, '', '' WHERE false"),
        _once("SELECT '', NULL, '', '' WHERE CAST(pg_sleep(1.4) AS text) = 'never'"),
    )
    servicer = IntegrityServicer(Verification(billing_shards, SystemClock(), walks))
    context = cast("grpc.aio.ServicerContext", None)
    began = time.monotonic()
    kinds = [
        (piece.WhichOneof("piece"), time.monotonic() - began)
        async for piece in servicer.VerifyInvariants(pb.VerifyInvariantsRequest(), context)
    ]
    assert kinds[0][0] == "progress"
    assert kinds[0][1] < 1.4
    assert kinds[-1][0] == "summary"


async def test_many_violations_are_reported_up_to_a_limit_which_hides_no_other_invariant(
    billing_shards: Shards,
) -> None:
    walk = _once(f"""
        SELECT 'nothing_is_wrong', NULL, 'things/' || n, 'it is wrong' FROM generate_series(1, {FINDINGS_MAX} + 5) AS n
        UNION ALL SELECT 'nothing_else_is_wrong', NULL, 'x/' || n, 'y' FROM generate_series(1, {FINDINGS_MAX}) AS n
    """)  # noqa: S608 -- made of a constant.
    pieces = await _pieces(Verification(billing_shards, SystemClock(), [walk]))
    checks = {check.invariant: (check.findings, check.more_findings) for check in _summary(pieces).checks}
    assert checks == {"nothing_is_wrong": (FINDINGS_MAX, True), "nothing_else_is_wrong": (FINDINGS_MAX, False)}
    assert sum(isinstance(piece, Finding) for piece in pieces) == 2 * FINDINGS_MAX


async def test_violation_that_several_ranges_find_is_reported_once(billing_shards: Shards) -> None:
    same = "SELECT 'nothing_is_wrong', NULL, 'things/1', 'it is wrong'"
    pieces = await _pieces(Verification(billing_shards, SystemClock(), [_once(same), _once(same)]))
    assert [piece for piece in pieces if isinstance(piece, Finding)] == [
        Finding("nothing_is_wrong", "", "things/1", "it is wrong")
    ]
    assert _summary(pieces).checks[0].findings == 1


async def test_statement_that_takes_too_long_fails_the_check_with_its_name_and_rows(billing_shards: Shards) -> None:
    slow = _once("SELECT '', NULL, '', '' WHERE CAST(pg_sleep(20) AS text) = 'never'")
    pieces: list[Finding | Progress | Summary] = []
    with pytest.raises(CheckFailed, match=r"nothing_else_is_wrong over the rows of billing_\d\d\.nothing"):
        await _fill(pieces, Verification(billing_shards, SystemClock(), [ONCE, slow]).verify())
    assert not any(isinstance(piece, Summary) for piece in pieces)


async def test_broken_statement_fails_the_check_and_says_which(billing_shards: Shards) -> None:
    broken = _once("SELECT '', NULL, '', '' FROM no_such_table")
    with pytest.raises(Exception, match="no_such_table") as failed:
        await _pieces(Verification(billing_shards, SystemClock(), [ONCE, broken]))
    assert "nothing_is_wrong" in failed.value.__notes__[0]


async def test_every_shard_is_checked_and_two_at_a_time(database_urls: dict[str, str]) -> None:
    shards = Shards([await _opened(database_urls["billing"]) for _ in range(5)])
    running: list[int] = []
    most = 0

    class Watched(Verification):
        async def _read(self, run: _Run, database: Database, checks: Sequence[Walk | Sweep], scope: Scope) -> None:
            nonlocal most
            running.append(1)
            most = max(most, len(running))
            await asyncio.sleep(0.05)
            await super()._read(run, database, checks, scope)
            running.pop()

    walk = _once("SELECT 'nothing_is_wrong', NULL, 'x', 'y'")
    platform = Part(await _opened(database_urls["billing"]), [walk])
    try:
        pieces = await _pieces(Watched(shards, SystemClock(), [walk], platform))
        assert most == 2
        assert _summary(pieces).checks[0].findings == 1
    finally:
        for database in (*shards, platform.database):
            await database.close()


async def test_window_that_takes_too_long_is_divided_by_time_and_organizations(database_urls: dict[str, str]) -> None:
    """The statement is quick only about one hour of one organization."""
    unit = timedelta(hours=1)
    sweep = Sweep(
        "declines",
        Column("create_time", "timestamptz"),
        (RULE,),
        """
        SELECT 'nothing_is_wrong', organization_id, operation_id, CAST(create_time AS text) FROM declines
        WHERE {window} AND (cardinality(CAST(:organization_ids AS uuid[])) = 1
            AND CAST(:last_timestamptz AS timestamptz) - CAST(:first_timestamptz AS timestamptz) < interval '1 hour'
            OR CAST(pg_sleep(9) AS text) = '')
        """,
        unit=unit,
    )
    database = database_module.open_database(database_urls["billing"], schema="billing_00", statement_timeout_ms=250)
    organization_ids = [new_id() for _ in range(3)]
    try:
        async with database.raw_connection() as connection:
            for organization_id in organization_ids:
                for hours in (1, 2):
                    await connection.execute(
                        "INSERT INTO declines (organization_id, operation_id, slot, reason, request, facts,"
                        " create_time) VALUES ($1, $2::int::text, 'HOLD', 'none', '{}', '{}',"
                        " now() - $2 * interval '1 hour')",
                        organization_id,
                        hours,
                    )
        pieces = await _pieces(Verification(Shards([database]), SystemClock(), [sweep]))
        found = sorted(piece.organization_id for piece in pieces if isinstance(piece, Finding))
        assert [one for one in found if one in organization_ids] == sorted([*organization_ids, *organization_ids])
    finally:
        await database.close()


async def test_violations_are_read_of_suspects_alone_and_rows_of_all_are_counted(billing_shards: Shards) -> None:
    sweep = Sweep(
        "declines",
        Column("create_time", "timestamptz"),
        (RULE,),
        "SELECT 'nothing_is_wrong', organization_id, operation_id, '' FROM declines WHERE {window}",
        unit=timedelta(hours=1),
        suspects="SELECT DISTINCT organization_id FROM declines WHERE {window} AND operation_id = 'suspect'",
    )
    organization_ids = [new_id() for _ in range(3)]
    for organization_id, operations in zip(organization_ids, (("a",), ("b", "suspect"), ("c", "d")), strict=True):
        async with billing_shards.of(organization_id).raw_connection() as connection:
            for operation_id in operations:
                await connection.execute(
                    "INSERT INTO declines (organization_id, operation_id, slot, reason, request, facts, create_time)"
                    " VALUES ($1, $2, 'HOLD', 'none', '{}', '{}', now())",
                    organization_id,
                    operation_id,
                )
    pieces = await _pieces(Verification(billing_shards, SystemClock(), [sweep]))
    found = [(piece.organization_id, piece.resource) for piece in pieces if isinstance(piece, Finding)]
    assert sorted(one for one in found if one[0] in organization_ids) == [
        (organization_ids[1], "b"),
        (organization_ids[1], "suspect"),
    ]
    assert _summary(pieces).checks[0].rows_examined >= 5


def test_digests_of_equal_rows_leave_no_difference_and_any_other_row_leaves_one() -> None:
    one, other = new_id(), new_id()
    differences = Differences()
    differences.add(1, [(one, 3, 5 ^ 9 ^ 12), (other, 1, 7)])
    differences.add(-1, [(one, 2, 5 ^ 12), (one, 1, 9)])
    assert differences.exist()
    assert differences.may_be_in(other)
    differences.add(-1, [(other, 1, 7)])
    assert not differences.exist()
    # Two rows of one table that cancel each other out are still two.
    differences.add(1, [(one, 2, 0)])
    assert differences.may_be_in(one)


async def test_check_waits_for_a_database_that_is_away_for_a_moment(billing_shards: Shards) -> None:
    walk = _once("SELECT '', NULL, '', '' WHERE false")
    async with billing_shards[0].raw_connection() as connection:
        await connection.execute("SELECT 1")
    verification = Verification(billing_shards, SystemClock(), [walk])
    takers = [asyncio.create_task(_hold(billing_shards[number % len(billing_shards)], 1.8)) for number in range(8)]
    await asyncio.sleep(0.2)
    assert _summary(await _pieces(verification)).checks[0].findings == 0
    await asyncio.gather(*takers)


async def _hold(database: Database, seconds: float) -> None:
    async with database.raw_connection():
        await asyncio.sleep(seconds)


async def _opened(url: str) -> Database:
    return database_module.open_database(url, schema="billing_00")


async def _fill(
    pieces: list[Finding | Progress | Summary], stream: AsyncIterator[Finding | Progress | Summary]
) -> None:
    async for piece in stream:
        pieces.append(piece)  # noqa: PERF401 -- what came before the failure is looked at.
