"""Each kind of damage to what was used of grants for certain users is found."""

from typing import Final

import pytest

from tests.billing.support import BillingServer
from tests.billing.test_integrity import live
from tests.support.sharded import execute_in_shards

pytestmark = pytest.mark.shards

# Damage to what was used of a grant for one user, what is found for it, and what repairs it.
BROKEN_USES: Final = (
    ("grant_uses SET used = used + 1 WHERE amount = 1", "grant_uses SET used = used - 1 WHERE amount = 1"),
    ("grant_uses SET amount = 9 WHERE amount = 1", "grant_uses SET amount = 1 WHERE amount = 9"),
    ("grant_uses SET sequence = 1 WHERE amount = 1", "grant_uses SET sequence = 2 WHERE amount = 1"),
    (
        "grant_uses SET user_id = NULL WHERE amount = 1",
        "grant_uses u SET user_id = g.user_id FROM billing.credit_grants g WHERE g.grant_id = u.grant_id",
    ),
    ("credit_grants SET rest = rest - 1 WHERE amount = 5", "credit_grants SET rest = rest + 1 WHERE amount = 5"),
    ("credit_grants SET model = 'x' WHERE amount = 5", "credit_grants SET model = NULL WHERE amount = 5"),
)


async def test_each_damage_to_what_was_used_of_a_grant_is_found(server: BillingServer, database_admin_url: str) -> None:
    async with server.start() as ledger:
        await live(ledger)
        for damage, repair in BROKEN_USES:
            await execute_in_shards(database_admin_url, f"UPDATE billing.{damage}")
            found = {finding.partition(":")[0] for finding in await ledger.findings()}
            assert found == {"grant_uses_follow_each_other"}, damage
            await execute_in_shards(database_admin_url, f"UPDATE billing.{repair}")
        assert await ledger.findings() == []
