"""Each kind of damage to invoices is found."""

from typing import Final

import pytest

from tests.billing.invoice_calls import NOW, credit, issue, set_issuer, void
from tests.billing.support import BillingServer, Ledger, funded, usd
from tests.support.sharded import execute_in_shards
from tollhouse.billing.v1 import invoice_pb2 as pb

pytestmark = pytest.mark.shards

_OF_SECOND: Final = "WHERE kind = 'INVOICE' AND position = 2"

# Damage, the invariants that find it, and what repairs it.
BROKEN: Final = (
    (
        f"invoices SET after_sequence = after_sequence - 1 {_OF_SECOND}",
        {"invoices_follow_each_other", "invoices_equal_the_ledger"},
        f"invoices SET after_sequence = after_sequence + 1 {_OF_SECOND}",
    ),
    (
        f"invoices SET from_time = from_time - interval '1 day' {_OF_SECOND}",
        {"invoices_follow_each_other"},
        f"invoices SET from_time = from_time + interval '1 day' {_OF_SECOND}",
    ),
    (
        "invoices SET replaced_by = NULL WHERE state = 'VOID'",
        {"invoices_follow_each_other"},
        """invoices v SET replaced_by = (
            SELECT i.invoice_id FROM billing.invoices i WHERE v.invoice_id = ANY (i.replaces)) WHERE state = 'VOID'""",
    ),
    (
        f"invoices SET subtotal = subtotal + 1 {_OF_SECOND}",
        {"invoices_equal_the_ledger"},
        f"invoices SET subtotal = subtotal - 1 {_OF_SECOND}",
    ),
    (
        f"invoices SET step_amount = step_amount + 1, rest_amount = rest_amount - 1 {_OF_SECOND}",
        {"invoices_equal_the_ledger"},
        f"invoices SET step_amount = step_amount - 1, rest_amount = rest_amount + 1 {_OF_SECOND}",
    ),
    (
        "invoices SET credited = credited - 1 WHERE credited = 2",
        {"credit_notes_stay_within_invoices"},
        "invoices SET credited = credited + 1 WHERE credited = 1 AND state <> 'VOID'",
    ),
    (
        "invoices SET number = number || 'x' WHERE position = 2",
        {"invoices_have_their_numbers"},
        "invoices SET number = rtrim(number, 'x') WHERE position = 2",
    ),
    (
        "invoice_dues SET attempts = 5, error = 'ValueError: a damaged row'",
        {"due_invoices_are_issued"},
        "invoice_dues SET attempts = 4",
    ),
)
_DUE: Final = """
    INSERT INTO billing.invoice_dues (organization_id, account_id, end_time, due_time, attempts, error)
    SELECT organization_id, account_id, now(), now(), 0, '' FROM billing.accounts
"""
GAPS: Final = (
    ("invoice_counters SET last_count = last_count + 1", "invoice_counters SET last_count = last_count - 1"),
    ("invoice_numbers SET count = count + 100 WHERE count = 2", "invoice_numbers SET count = 2 WHERE count = 102"),
)
INVOICE_DAMAGE: Final = frozenset({"invoice_numbers_have_no_gaps"}.union(*(names for _, names, _ in BROKEN)))


async def invoiced(ledger: Ledger) -> None:
    """An account with a voided invoice, one that replaces it, and a credit note on a part."""
    await set_issuer(ledger)
    org = await funded(ledger, hold=None)
    await ledger.debit(org, "first", "1")
    await void(ledger, await issue(ledger, org, NOW))
    await ledger.debit(org, "second", "4")
    second = await issue(ledger, org, NOW)
    await credit(ledger, second, pb.CreditedLine(line_number=1, amount=usd("2")))


async def test_each_damage_to_invoices_is_found(server: BillingServer, database_admin_url: str) -> None:
    async with server.start() as ledger:
        await invoiced(ledger)
        await execute_in_shards(database_admin_url, _DUE)
        assert await ledger.findings() == []
        for damage, names, repair in BROKEN:
            await execute_in_shards(database_admin_url, f"UPDATE billing.{damage}")
            found = {finding.partition(":")[0] for finding in await ledger.findings()}
            assert found == names, damage
            await execute_in_shards(database_admin_url, f"UPDATE billing.{repair}")
            assert await ledger.findings() == [], repair


async def test_each_gap_in_the_numbers_is_found(server: BillingServer, database_admin_url: str) -> None:
    async with server.start() as ledger:
        await invoiced(ledger)
        for damage, repair in GAPS:
            await execute_in_shards(database_admin_url, f"UPDATE billing.{damage}")
            found = {finding.partition(":")[0] for finding in await ledger.findings()}
            assert found == {"invoice_numbers_have_no_gaps"}, damage
            await execute_in_shards(database_admin_url, f"UPDATE billing.{repair}")
        assert await ledger.findings() == []
