"""The invariants find nothing in a consistent ledger, and find each kind of damage."""

import random
from decimal import Decimal
from typing import Final

import asyncpg
import pytest

from libs.common.charge_filter import ChargeFilter
from libs.common.clock import SystemClock
from libs.common.database_url import plain_url
from libs.common.shards import Shards
from services.billing.charge.charges import Charges
from services.billing.ledger.domain import Capture, Credit, Place, SystemAccount
from services.billing.ledger.engine import Engine
from services.billing.ledger.history import History
from tests.billing.support import BillingServer, Ledger, organization, usd
from tests.support.sharded import execute_in_shards
from tollhouse.billing.v1 import charge_pb2
from tollhouse.common.v1 import integrity_pb2 as pb

VISIBLE: Final = "".join(map(chr, range(0x21, 0x7F)))

DAMAGE = {
    "accounts_equal_their_movements": "UPDATE billing.accounts SET posted = posted + 1",
    "movements_follow_each_other": "UPDATE billing.transactions SET sequence = 9 WHERE operation_id = 'late'",
    "accounts_held_equals_open_holds": "UPDATE billing.accounts SET held = held + 1",
    "holds_end_once": "UPDATE billing.holds SET state = 'RELEASED' WHERE operation_id = 'captured'",
    "captures_have_holds": "DELETE FROM billing.holds WHERE operation_id = 'captured'",
    "declines_moved_nothing": ("UPDATE billing.declines SET operation_id = 'late' WHERE operation_id = 'declined'"),
    "guarded_movements_keep_the_limit": "UPDATE billing.transactions SET overdrawn = true WHERE operation_id = 'late'",
    "reversals_undo_their_transactions": "UPDATE billing.transactions SET amount = 9 WHERE operation_id = 'undo'",
    "transactions_have_two_sides": "UPDATE billing.transactions SET system_account = 'GRANTS' WHERE kind = 'DEBIT'",
    "audit_events_are_chained": (
        "INSERT INTO billing.audit_heads VALUES (gen_random_uuid(), 1, decode(repeat('00', 32), 'hex'), now())"
    ),
}


async def _live(ledger: Ledger) -> str:
    org = organization()
    await ledger.credit(org, "top-up", "10")
    debit = await ledger.debit(org, "work", "2")
    await ledger.reverse(org, "undo", debit.transaction.transaction_id, "1")
    await ledger.hold(org, "captured", "3")
    await ledger.capture(org, "captured", "2")
    await ledger.hold(org, "open", "1")
    with pytest.raises(Exception, match="needed"):
        await ledger.debit(org, "declined", "100")
    await ledger.debit(org, "late", "1")
    return org


@pytest.mark.parametrize("invariant", DAMAGE)
async def test_planted_damage_is_found(server: BillingServer, database_admin_url: str, invariant: str) -> None:
    async with server.start() as ledger:
        await _live(ledger)
        assert await ledger.findings() == []
        await execute_in_shards(database_admin_url, DAMAGE[invariant])
        assert invariant in {finding.split(":")[0] for finding in await ledger.findings()}


async def test_every_invariant_has_its_damage(ledger: Ledger) -> None:
    pieces = [
        piece
        async for piece in ledger.integrity.VerifyInvariants(pb.VerifyInvariantsRequest(), metadata=ledger.metadata)
    ]
    assert {check.invariant for check in pieces[-1].summary.checks} == set(DAMAGE)


async def test_charges_are_listed_in_pages_by_operation(ledger: Ledger) -> None:
    org = await _live(ledger)
    found = []
    request = charge_pb2.ListChargesRequest(organization_id=org, page_size=2)
    while True:
        page = await ledger.charge.ListCharges(request, metadata=ledger.metadata)
        found += [(charge.operation_id, charge.amount) for charge in page.charges]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert found == [("captured", usd("2")), ("late", usd("1")), ("work", usd("2"))]


async def test_charges_and_holds_are_listed_in_byte_order_of_operation_ids(
    billing_shards: Shards,
) -> None:
    org, clock = organization(), SystemClock()
    ids = [f"{first}x{second}" for first in VISIBLE for second in "aB_-+/="] + list(VISIBLE)
    random.shuffle(ids)
    engine = Engine(billing_shards, clock)
    await engine.submit([Credit(org, "0", None, "USD", Decimal(9), SystemAccount.PAYMENTS, "", None, "system")])
    await engine.submit([Place(org, name, None, "USD", Decimal("0.01"), 9_000, "", None, "system") for name in ids])
    await engine.submit([Capture(org, name, "USD", Decimal("0.01"), "", None, "system") for name in ids if name != "0"])
    await engine.drain()

    charges, history, token = Charges(billing_shards, clock), History(billing_shards, clock), ""
    charged: list[str] = []
    while token or not charged:
        page, token = await charges.page(ChargeFilter(org), 50, token)
        charged += [charge.operation_id for charge in page]
    held: list[str] = []
    while token or not held:
        holds, token = await history.holds(org, account_id=None, state=None, page_size=50, page_token=token)
        held += [hold.operation_id for hold in holds]

    assert held == sorted(ids, key=str.encode)
    assert charged == [name for name in held if name != "0"]


async def test_operation_ids_are_in_byte_order_whatever_the_locale_of_the_database(database_admin_url: str) -> None:
    connection = await asyncpg.connect(plain_url(database_admin_url))
    try:
        columns = await connection.fetch("""
            SELECT table_schema || '.' || table_name, collation_name FROM information_schema.columns
            WHERE table_schema IN ('billing', 'metering') AND column_name = 'operation_id'
        """)
    finally:
        await connection.close()
    assert len(columns) > 3
    assert [table for table, collation in columns if collation != "C"] == []
