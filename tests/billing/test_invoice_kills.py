"""Whatever a process dies after while it issues or voids, no number is skipped or used twice, and all is billed once.

Issuing and voiding are one transaction each. What dies before its commit has done nothing; what dies after it has done
all, and the repeat finds that.
"""

import signal
from decimal import Decimal

import pytest

from tests.billing import dying_issue
from tests.billing.invoice_calls import NOW, get, issue, list_all, set_issuer, void
from tests.billing.support import BillingServer, funded, refusal
from tests.support.forked import exit_code_of
from tests.support.kills import KILLS_AT_EACH_POINT
from tollhouse.billing.v1 import invoice_pb2 as pb

pytestmark = pytest.mark.thorough


async def _die(url: str, organization_id: str, invoice_id: str, point: str) -> None:
    assert await exit_code_of(dying_issue.run, url, organization_id, invoice_id, point) == -signal.SIGKILL


@pytest.mark.timeout(300)
async def test_sigkill_while_issuing_leaves_no_gap_and_bills_once(
    server: BillingServer, database_urls: dict[str, str]
) -> None:
    async with server.start() as ledger:
        await set_issuer(ledger)
        expected = []
        for point in dying_issue.ISSUE_POINTS * KILLS_AT_EACH_POINT:
            org = await funded(ledger, hold=None)
            await ledger.debit(org, "work", "2.5")
            await _die(database_urls["billing"], org, "", point)
            found = await list_all(ledger, org)
            assert len(found) == (point == "commit"), point
            if not found:
                found = [await issue(ledger, org, NOW)]
            assert (await refusal(issue(ledger, org, NOW)))[1] == "NOTHING_TO_INVOICE"
            assert Decimal(found[0].subtotal.value) == Decimal("2.5")
            expected.append(found[0].number)
        assert expected == [f"INV-{number:06}" for number in range(1, len(expected) + 1)]
        assert await ledger.findings() == []


@pytest.mark.timeout(300)
async def test_sigkill_while_voiding_voids_all_or_nothing(server: BillingServer, database_urls: dict[str, str]) -> None:
    async with server.start() as ledger:
        await set_issuer(ledger)
        for point in dying_issue.VOID_POINTS * KILLS_AT_EACH_POINT:
            org = await funded(ledger, hold=None)
            await ledger.debit(org, "work", "2.5")
            invoice = await issue(ledger, org, NOW)
            await _die(database_urls["billing"], org, invoice.invoice_id, point)
            state = (await get(ledger, org, invoice.invoice_id)).state
            assert (state == pb.INVOICE_STATE_VOID) == (point == "commit"), point
            assert len(await list_all(ledger, org)) == 1 + (point == "commit")
            assert (await void(ledger, invoice)).credit_note.total == invoice.total
            assert (await issue(ledger, org, NOW)).subtotal == invoice.subtotal
        assert await ledger.findings() == []
