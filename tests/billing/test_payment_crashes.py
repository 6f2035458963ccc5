"""A process that is killed between any two statements of a payment leaves nothing lost and nothing brought twice."""

import signal
from decimal import Decimal

import pytest

from libs.common.ids import new_id
from services.billing.payment.domain import PaymentStatus
from tests.billing import dying_payment
from tests.billing.payment_house import fact, open_payments, paid, reference
from tests.support.forked import exit_code_of
from tests.support.kills import KILLS_AT_EACH_POINT

pytestmark = pytest.mark.thorough


@pytest.mark.shards
async def test_sigkill_at_every_point_brings_and_takes_back_once(database_urls: dict[str, str]) -> None:
    url = database_urls["billing"]
    async with open_payments(url) as house:
        for point in dying_payment.POINTS * KILLS_AT_EACH_POINT:
            checkout, org = await house.checkout(), new_id()
            order = reference("ORDER", f"order-{checkout.payment_id}")
            dispute = reference("DISPUTE", f"dispute-{checkout.payment_id}")
            facts = [
                paid(checkout, 1, references=(order,), refunded_amount=Decimal(3)),
                fact(checkout, 2, references=(order, dispute), disputed=True),
                fact(checkout, 3, references=(order, dispute), disputed=False),
            ]
            assert await exit_code_of(dying_payment.run, url, point, facts, org) == -signal.SIGKILL, point
            await house.settle()
            for one in facts:
                await house.payments.apply(one)
            await dying_payment.record_and_refund(house, org)
            assert await house.posted(checkout.organization_id) == {"CREDIT": 7}, point
            assert await house.posted(org) == {"USD": 6}, point
            assert (await house.find(checkout)).status is PaymentStatus.PARTIALLY_REFUNDED
        assert await house.findings() == []
