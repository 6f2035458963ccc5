"""The invariants find nothing in a consistent ledger, and find each kind of damage."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final

import asyncpg
import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.clock import SystemClock
from libs.common.database_url import plain_url
from libs.common.ids import first_id_of
from libs.common.integrity.domain import Finding, Summary
from libs.common.integrity.verification import Verification
from libs.common.shards import Shards
from libs.common.status import reason_of
from services.billing.invariants import CHECKS
from tests.billing.support import BillingServer, Ledger, organization
from tests.billing.test_collection_integrity import COLLECTION_DAMAGE
from tests.billing.test_invoice_integrity import INVOICE_DAMAGE
from tests.billing.test_payment_integrity import PAYMENT_DAMAGE
from tests.billing.test_subscription_integrity import SUBSCRIPTION_DAMAGE
from tests.billing.test_usage_charge_integrity import USAGE_CHARGE_DAMAGE
from tests.support.invariants import findings_of
from tests.support.sharded import execute_in_shards, in_each_shard
from tollhouse.billing.v1 import ledger_pb2
from tollhouse.common.v1 import integrity_pb2 as pb

DAMAGE = {
    "accounts_equal_their_movements": "UPDATE billing.accounts SET posted = posted + 1",
    "movements_follow_each_other": "UPDATE billing.transactions SET sequence = 99 WHERE operation_id = 'late'",
    "accounts_held_equals_open_holds": "UPDATE billing.accounts SET held = held + 1",
    "holds_end_once": "UPDATE billing.holds SET state = 'RELEASED' WHERE operation_id = 'captured'",
    "captures_have_holds": "DELETE FROM billing.holds WHERE operation_id = 'captured'",
    "holds_count_their_parts": "UPDATE billing.holds SET captured_amount = 2 WHERE operation_id = 'in-parts'",
    "declines_moved_nothing": ("UPDATE billing.declines SET operation_id = 'late' WHERE operation_id = 'declined'"),
    "guarded_movements_keep_the_limit": "UPDATE billing.transactions SET overdrawn = true WHERE operation_id = 'late'",
    "reversals_undo_their_transactions": "UPDATE billing.transactions SET amount = 9 WHERE operation_id = 'undo'",
    "transactions_have_two_sides": "UPDATE billing.transactions SET system_account = 'GRANTS' WHERE kind = 'DEBIT'",
    "grants_equal_their_movements": "UPDATE billing.credit_grants SET expired = 0 WHERE operation_id = 'voided'",
    "grant_rests_follow_from_the_ledger": "UPDATE billing.credit_grants SET rest = rest - 0.5 WHERE rest > 0.5",
    "grants_begin_and_end_in_time": "UPDATE billing.accounts SET grant_due_from = NULL",
    "grant_uses_follow_each_other": "UPDATE billing.grant_uses SET amount = 0.5 WHERE amount = 1",
    "holds_reserve_what_is_left": (
        "UPDATE billing.holds SET reserves = (SELECT jsonb_object_agg(key, '4.5') FROM jsonb_each(reserves))"
        " WHERE operation_id = 'annas-call'"
    ),
    "plan_versions_follow_each_other": "UPDATE billing.plan_versions SET version = 2",
    "audit_events_are_chained": (
        "INSERT INTO billing.audit_heads VALUES (gen_random_uuid(), 1, decode(repeat('00', 32), 'hex'), now())"
    ),
    "events_are_in_order": "INSERT INTO billing.event_subjects VALUES (gen_random_uuid(), 'thing/1', 1, now())",
    "event_deliveries_move": (
        "INSERT INTO billing.event_deliveries (organization_id, event_id, endpoint_id, subject, sequence, status,"
        " next_attempt_time, start_time) VALUES (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'thing/1', 1,"
        " 'PENDING', now() + interval '1 day', now())"
    ),
}
EVERY_DAMAGE: Final = (
    set(DAMAGE) | set(SUBSCRIPTION_DAMAGE) | PAYMENT_DAMAGE | COLLECTION_DAMAGE | INVOICE_DAMAGE | USAGE_CHARGE_DAMAGE
)


async def live(ledger: Ledger) -> str:
    org = organization()
    await ledger.credit(org, "top-up", "10")
    debit = await ledger.debit(org, "work", "2")
    await ledger.reverse(org, "undo", debit.transaction.transaction_id, "1")
    await ledger.hold(org, "captured", "3")
    await ledger.capture(org, "captured", "2")
    await ledger.hold(org, "open", "1")
    await ledger.hold(org, "in-parts", "2")
    await ledger.capture(org, "in-parts", "0.75", part_id="in-parts/1")
    await ledger.capture(org, "in-parts", "0.5", part_id="in-parts/2")
    await ledger.capture(org, "in-parts", "0.25")
    await ledger.capture(org, "in-parts", "0.5", part_id="in-parts/late")
    with pytest.raises(Exception, match="needed"):
        await ledger.debit(org, "declined", "100")
    await ledger.debit(org, "late", "1")
    tomorrow = Timestamp()
    tomorrow.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    await ledger.grant(org, "granted", "2", expire_time=tomorrow)
    await ledger.debit(org, "granted-use", "0.25")
    await ledger.void(org, (await ledger.grant(org, "voided", "1.5")).grant.grant_id)
    await ledger.grant(org, "to-come", "1", effective_time=tomorrow)
    anna = {"project_id": organization(), "user_id": organization()}
    await ledger.grant(org, "annas", "5", **anna)
    await ledger.debit(org, "annas-work", "1", **anna)
    await ledger.debit(org, "annas-next-work", "0.25", **anna)
    await ledger.hold(org, "annas-call", "2", **anna)
    return org


# More damage to holds with parts. What the last capture used is compared with the parts before it alone.
BROKEN_PARTS: Final = {
    "nothing is counted": (
        "UPDATE billing.holds SET captured_amount = 0 WHERE operation_id = 'in-parts'",
        {"holds_count_their_parts", "holds_end_once"},
    ),
    "a part is gone": (
        "DELETE FROM billing.transactions WHERE operation_id = 'in-parts/late'",
        {"holds_count_their_parts", "movements_follow_each_other"},
    ),
    "a part is of another hold": (
        "UPDATE billing.transactions SET hold_operation_id = 'captured' WHERE operation_id = 'in-parts/late'",
        {"holds_count_their_parts"},
    ),
    "a part is of a hold that never was": (
        "UPDATE billing.transactions SET hold_operation_id = 'never' WHERE operation_id = 'in-parts/late'",
        {"holds_count_their_parts", "captures_have_holds"},
    ),
    "a debit is a part": (
        "UPDATE billing.transactions SET hold_operation_id = 'in-parts' WHERE operation_id = 'late'",
        {"holds_count_their_parts", "captures_have_holds"},
    ),
    "a part is of another account": (
        "UPDATE billing.holds SET account_id = gen_random_uuid() WHERE operation_id = 'in-parts'",
        {"holds_count_their_parts", "holds_end_once"},
    ),
    "a part after the last capture used the hold": (
        "UPDATE billing.transactions SET held_amount = 0.1 WHERE operation_id = 'in-parts/late'",
        {"holds_count_their_parts"},
    ),
    "a part used more than was left": (
        "UPDATE billing.transactions SET held_amount = 1.5 WHERE operation_id = 'in-parts/2'",
        {"holds_count_their_parts"},
    ),
    "the last capture used what was captured before": (
        "UPDATE billing.transactions SET held_amount = 2 WHERE operation_id = 'in-parts'",
        {"holds_count_their_parts"},
    ),
    "the last capture is gone": (
        "UPDATE billing.transactions SET operation_id = 'in-parts/3' WHERE operation_id = 'in-parts'",
        {"holds_end_once", "captures_have_holds"},
    ),
}

# More damage to the chains of movements, with what is found for it. "move" is a transfer between two projects.
BROKEN_CHAINS: Final = {
    "a movement in the middle is gone": (
        "DELETE FROM billing.transactions WHERE operation_id = 'captured'",
        {"movements_follow_each_other", "holds_end_once"},
    ),
    "the last movement is gone": (
        "DELETE FROM billing.transactions WHERE operation_id = 'late'",
        {"accounts_equal_their_movements"},
    ),
    "the account is gone": (
        "DELETE FROM billing.accounts WHERE organization_id = owner_id",
        {"accounts_equal_their_movements"},
    ),
    "the account is in another currency": (
        "UPDATE billing.accounts SET currency_code = 'EUR' WHERE organization_id <> owner_id",
        {"accounts_equal_their_movements"},
    ),
    "one movement is in another currency": (
        "UPDATE billing.transactions SET currency_code = 'EUR' WHERE operation_id = 'work'",
        {"accounts_equal_their_movements", "movements_follow_each_other"},
    ),
    "an amount and the balance after it are wrong": (
        (
            "UPDATE billing.transactions SET amount = amount + 1, requested_amount = amount + 1,"
            " balance_after = balance_after - 1 WHERE operation_id = 'work'"
        ),
        {"movements_follow_each_other"},
    ),
    "the balance of the other account is wrong": (
        "UPDATE billing.transactions SET counter_balance_after = 7 WHERE operation_id = 'move'",
        {"movements_follow_each_other"},
    ),
    "a movement of the other account has a number that is taken": (
        "UPDATE billing.transactions SET counter_sequence = 1 WHERE operation_id = 'move'",
        {"movements_follow_each_other"},
    ),
    "a movement is earlier than the one before it": (
        "UPDATE billing.transactions SET create_time = create_time - interval '1 day' WHERE operation_id = 'work'",
        {"movements_follow_each_other"},
    ),
    "an account of zero movements has money": (
        (
            "INSERT INTO billing.accounts SELECT organization_id, gen_random_uuid(), gen_random_uuid(), 'USD', 5, 0, 0,"
            " 0, 'OPEN', NULL, NULL, 1, 1, NULL, NULL, NULL, now(), now() FROM billing.accounts LIMIT 1"
        ),
        {"accounts_equal_their_movements"},
    ),
}


@pytest.mark.shards
@pytest.mark.parametrize("invariant", DAMAGE)
async def test_planted_damage_is_found(
    server: BillingServer, database_admin_url: str, billing_shards: Shards, invariant: str
) -> None:
    async with server.start() as ledger:
        await live(ledger)
        await live(ledger)
        assert await ledger.findings() == []
        await execute_in_shards(database_admin_url, DAMAGE[invariant])
        assert invariant in {finding.split(":")[0] for finding in await ledger.findings()}
    await _found_wherever_ranges_end(billing_shards)


@pytest.mark.parametrize("broken", BROKEN_PARTS)
async def test_parts_that_do_not_fit_their_hold_are_found_wherever_ranges_of_rows_end(
    server: BillingServer, database_admin_url: str, billing_shards: Shards, broken: str
) -> None:
    statement, invariants = BROKEN_PARTS[broken]
    async with server.start() as ledger:
        await live(ledger)
        await live(ledger)
        assert await ledger.findings() == []
    await execute_in_shards(database_admin_url, statement)
    assert {finding.invariant for finding in await _found_wherever_ranges_end(billing_shards)} == invariants


@pytest.mark.parametrize("broken", BROKEN_CHAINS)
async def test_broken_chain_of_movements_is_found_wherever_ranges_of_rows_end(
    server: BillingServer, database_admin_url: str, billing_shards: Shards, broken: str
) -> None:
    statement, invariants = BROKEN_CHAINS[broken]
    async with server.start() as ledger:
        await _with_transfers(ledger)
        await _with_transfers(ledger)
        assert await ledger.findings() == []
    await execute_in_shards(database_admin_url, statement)
    assert {finding.invariant for finding in await _found_wherever_ranges_end(billing_shards)} == invariants


@pytest.mark.shards
async def test_check_during_live_writes_finds_no_violation(server: BillingServer, billing_shards: Shards) -> None:
    organizations = [(organization(), organization()) for _ in range(3)]
    user = organization()
    rounds = 0
    async with server.start() as ledger:

        async def work(org: str, project: str, worker: int) -> None:
            for number in count():
                if number >= 15 and rounds > 3:
                    return
                name = f"{worker}-{number}"
                await ledger.credit(org, f"in-{name}", "9", project_id=project)
                await ledger.transfer(org, f"move-{name}", "2", project, "")
                await ledger.hold(org, name, "1")
                await ledger.capture(org, name, "0.25", part_id=f"{name}/1")
                await ledger.extend(org, name, "1.5")
                await ledger.capture(org, name, "0.25")
                done = await ledger.debit(org, f"out-{name}", "0.5", mode=ledger_pb2.DEBIT_MODE_MUST_POST)
                await ledger.reverse(org, f"back-{name}", done.transaction.transaction_id, "0.25")
                await ledger.grant(org, f"grant-{name}", "2", user_id=user)
                await ledger.hold(org, f"user-{name}", "1", user_id=user)
                await ledger.debit(org, f"use-{name}", "1", user_id=user)
                await ledger.capture(org, f"user-{name}", "0.5")

        for org, _ in organizations:
            await ledger.credit(org, "start", "1")
        workers = asyncio.gather(*(work(org, project, worker) for org, project in organizations for worker in range(3)))
        while not workers.done():
            assert await findings_of(Verification(billing_shards, SystemClock(), CHECKS, rows_max=7)) == []
            rounds += 1
        await workers


@pytest.mark.shards
async def test_since_time_leaves_out_older_movements_and_checks_newer_ones(
    server: BillingServer, database_admin_url: str, billing_shards: Shards
) -> None:
    async with server.start() as ledger:
        org = organization()
        for name in ("first", "old", "new", "newest"):
            await ledger.credit(org, name, "1")
    before = (datetime.now(UTC) - timedelta(days=2)).replace(microsecond=0)
    await execute_in_shards(
        database_admin_url,
        "UPDATE billing.transactions SET create_time = $1, overdrawn = true,"
        " transaction_id = overlay(CAST(transaction_id AS text) PLACING $2 FROM 1)::uuid"
        " WHERE operation_id IN ('first', 'old')",
        before,
        first_id_of(before)[:13],
    )

    async def found(since_time: datetime | None) -> set[str]:
        pieces = [
            piece
            async for piece in Verification(billing_shards, SystemClock(), CHECKS, rows_max=2).verify(org, since_time)
        ]
        summary = pieces[-1]
        assert isinstance(summary, Summary)
        assert summary.checks[0].rows_examined == (4 if since_time is None else 2)
        return {f"{piece.invariant} {piece.resource}" for piece in pieces if isinstance(piece, Finding)}

    yesterday = datetime.now(UTC) - timedelta(days=1)
    old = {f"guarded_movements_keep_the_limit operations/{name}" for name in ("first", "old")}
    assert await found(None) == old
    assert await found(yesterday) == set()
    # The first movement since then is compared with the one before it.
    await execute_in_shards(
        database_admin_url, "UPDATE billing.transactions SET balance_after = 7 WHERE operation_id = 'old'"
    )
    assert {finding.split()[0] for finding in await found(yesterday)} == {"movements_follow_each_other"}


@pytest.mark.shards
async def test_check_of_one_organization_finds_its_own_violations_only(
    server: BillingServer, database_admin_url: str
) -> None:
    async with server.start() as ledger:
        damaged, other = await live(ledger), await live(ledger)
        await execute_in_shards(
            database_admin_url,
            "UPDATE billing.transactions SET overdrawn = true WHERE operation_id = 'late' AND organization_id = $1",
            damaged,
        )
        for org, expected in (
            (damaged, {damaged}),
            (damaged.upper(), {damaged}),
            (other, set()),
            (organization(), set()),
        ):
            request = pb.VerifyInvariantsRequest(organization_id=org)
            pieces = [piece async for piece in ledger.integrity.VerifyInvariants(request, metadata=ledger.metadata)]
            assert {piece.finding.organization_id for piece in pieces if piece.HasField("finding")} == expected
            assert {check.invariant for check in pieces[-1].summary.checks} == EVERY_DAMAGE


@pytest.mark.shards
async def test_check_that_cannot_read_a_table_fails_and_has_no_summary(
    server: BillingServer, database_admin_url: str
) -> None:
    async with server.start() as ledger:
        await live(ledger)
        connection = await asyncpg.connect(plain_url(database_admin_url))
        pieces: list[pb.VerifyInvariantsResponse] = []
        try:
            async with connection.transaction():
                for lock in in_each_shard("LOCK TABLE billing.holds IN ACCESS EXCLUSIVE MODE"):
                    await connection.execute(lock)
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await _read_all(ledger, pieces)
        finally:
            await connection.close()
        assert reason_of(failed.value) == "CHECK_FAILED"
        details = failed.value.details() or ""
        # Two checks go on at a time. Which of those that read holds gives up first depends on the rows of the shard.
        assert re.search(r"^The check of .*holds.* over the rows of billing_\d\d\.\w+ (from|of|in) .+ did not", details)
        assert not any(piece.HasField("summary") for piece in pieces)
        assert await ledger.findings() == []


async def _read_all(ledger: Ledger, pieces: list[pb.VerifyInvariantsResponse]) -> None:
    async for piece in ledger.integrity.VerifyInvariants(pb.VerifyInvariantsRequest(), metadata=ledger.metadata):
        pieces.append(piece)  # noqa: PERF401 -- what came before the failure is looked at.


async def _with_transfers(ledger: Ledger) -> None:
    org = organization()
    project = organization()
    await ledger.credit(org, "top-up", "10")
    await ledger.credit(org, "to-project", "5", project_id=project)
    await ledger.debit(org, "work", "2")
    await ledger.transfer(org, "move", "1", project, "")
    await ledger.hold(org, "captured", "3")
    await ledger.capture(org, "captured", "2")
    await ledger.transfer(org, "back", "1", "", project)
    await ledger.debit(org, "late", "1")


async def _found_wherever_ranges_end(shards: Shards) -> list[Finding]:
    """Return what is found in ranges that hold everything, after making sure that shorter ones find the same.

    The shorter ones are of the checks that found something. That no other check finds anything in them is a test's own.
    """
    found = await findings_of(Verification(shards, SystemClock(), CHECKS))
    names = {finding.invariant for finding in found}
    checks = [check for check in CHECKS if names & {invariant.name for invariant in check.invariants}]
    for rows_max in (1, 2, 3):
        assert await findings_of(Verification(shards, SystemClock(), checks, rows_max=rows_max)) == found
    return found


async def test_nothing_is_found_in_a_consistent_ledger_wherever_ranges_of_rows_end(
    server: BillingServer, billing_shards: Shards
) -> None:
    async with server.start() as ledger:
        await live(ledger)
        await live(ledger)
        await _with_transfers(ledger)
    for rows_max in (1, 2, 3):
        assert await findings_of(Verification(billing_shards, SystemClock(), CHECKS, rows_max=rows_max)) == []


@pytest.mark.shards
async def test_every_invariant_has_damage_that_it_finds(ledger: Ledger) -> None:
    pieces = [
        piece
        async for piece in ledger.integrity.VerifyInvariants(pb.VerifyInvariantsRequest(), metadata=ledger.metadata)
    ]
    assert {check.invariant for check in pieces[-1].summary.checks} == EVERY_DAMAGE
