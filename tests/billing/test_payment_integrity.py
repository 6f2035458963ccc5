"""Each kind of damage to payments is found by the invariant that is meant for it."""

from decimal import Decimal
from typing import Final

import pytest

from tests.billing import dying_payment
from tests.billing.payment_house import open_payments, paid, reference
from tests.support.sharded import execute_in_shards

pytestmark = pytest.mark.shards

# Damage, what is found for it, and what repairs it.
BROKEN: Final = (
    (
        "payments SET awarded = false, grant_id = NULL WHERE type = 'CREDIT_PACK'",
        "payments_have_their_movements",
        "payments SET awarded = true WHERE type = 'CREDIT_PACK'",
    ),
    (
        "payment_movements SET amount = amount + 1 WHERE kind = 'AWARDED_MONEY'",
        "payments_have_their_movements",
        "payment_movements SET amount = amount - 1 WHERE kind = 'AWARDED_MONEY'",
    ),
    (
        "payment_movements SET operation_id = 'x' || operation_id WHERE kind = 'TAKEN_CREDITS'",
        "payments_have_their_movements",
        "payment_movements SET operation_id = substr(operation_id, 2) WHERE kind = 'TAKEN_CREDITS'",
    ),
    (
        "payments SET refunded_amount = 4 WHERE type = 'CREDIT_PACK'",
        "payments_return_what_was_refunded",
        "payments SET refunded_amount = 3 WHERE type = 'CREDIT_PACK'",
    ),
    (
        """payments SET said = jsonb_set(said, '{disputed/dp_1,2}', '"1 USD"') WHERE type = 'CREDIT_PACK'""",
        "payments_return_what_was_refunded",
        """payments SET said = jsonb_set(said, '{disputed/dp_1,2}', '"2 USD"') WHERE type = 'CREDIT_PACK'""",
    ),
    (
        """payments SET said = said || '{"gross_amount": [0, 0, "11.9 0.01"]}' WHERE type = 'CREDIT_PACK'""",
        "payments_return_what_was_refunded",
        "payments SET said = said - 'gross_amount' WHERE type = 'CREDIT_PACK'",
    ),
    (
        "payments SET written_off = 1 WHERE type = 'CREDIT_PACK'",
        "payments_return_what_was_refunded",
        "payments SET written_off = 0 WHERE type = 'CREDIT_PACK'",
    ),
    ("payment_refunds SET amount = 9", "refunds_are_within_their_payments", "payment_refunds SET amount = 4"),
    (
        "payment_refunds SET state = 'REQUESTED', complete_time = NULL, create_time = now() - interval '25 hours'",
        "refunds_have_an_outcome",
        "payment_refunds SET state = 'COMPLETED', complete_time = now()",
    ),
    (
        "payments SET settled = false, update_time = update_time - interval '2 hours' WHERE type = 'CREDIT_PACK'",
        "payments_are_settled",
        "payments SET settled = true WHERE type = 'CREDIT_PACK'",
    ),
)

PAYMENT_DAMAGE: Final = frozenset(invariant for _, invariant, _ in BROKEN)


async def test_each_damage_to_a_payment_is_found(database_urls: dict[str, str], database_admin_url: str) -> None:
    async with open_payments(database_urls["billing"]) as house:
        checkout = await house.checkout()
        over = {"disputed": True, "disputed_amount": Decimal(2), "disputed_currency_code": "USD"}
        dispute = (reference("DISPUTE", "dp_1"),)
        await house.payments.apply(paid(checkout, 1, refunded_amount=Decimal(3), references=dispute, **over))
        await dying_payment.record_and_refund(house, checkout.organization_id)
        assert await house.findings() == []
        for damage, invariant, repair in BROKEN:
            await execute_in_shards(database_admin_url, f"UPDATE billing.{damage}")
            assert {finding.invariant for finding in await house.findings()} == {invariant}, damage
            await execute_in_shards(database_admin_url, f"UPDATE billing.{repair}")
        assert await house.findings() == []
