"""What is written in the transaction of a ledger's command is there with it, or neither is."""

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal

import pytest

from libs.common.database import RawConnection
from libs.common.ids import new_id
from services.billing.ledger.domain import Credit, Outcome, Posted, SystemAccount
from tests.billing.payment_house import PaymentHouse, open_payments

pytestmark = pytest.mark.shards


class Marked(Exception):
    """Something that cannot be written."""


@pytest.fixture(scope="module")
async def house(module_database_urls: dict[str, str]) -> AsyncIterator[PaymentHouse]:
    async with open_payments(module_database_urls["billing"]) as house:
        yield house


class Notes:
    """Notes how often it was called, and raises where it is told to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.calls = 0
        self._fails = fails

    def credit(self, organization_id: str, operation_id: str, *, validate_only: bool = False) -> Credit:
        async def also(connection: RawConnection, outcome: Outcome) -> None:
            assert isinstance(outcome, Posted)
            found = "SELECT amount FROM transactions WHERE organization_id = $1::uuid AND operation_id = $2"
            assert await connection.fetchval(found, organization_id, operation_id) == outcome.movement.amount
            self.calls += 1
            if self._fails:
                raise Marked

        return Credit(
            organization_id,
            operation_id,
            None,
            "USD",
            Decimal(1),
            SystemAccount.PAYMENTS,
            "",
            None,
            "test",
            validate_only=validate_only,
            also=also,
        )


async def test_what_raises_fails_its_own_command_and_no_other_of_the_batch(house: PaymentHouse) -> None:
    org, good, bad = new_id(), Notes(), Notes(fails=True)
    commands = [good.credit(org, f"good-{n}") for n in range(20)]
    answers = await house.engine.submit([*commands[:7], bad.credit(org, "bad"), *commands[7:]])
    assert [type(answer).__name__ for answer in answers] == ["Posted"] * 7 + ["Marked"] + ["Posted"] * 13
    assert await house.posted(org) == {"USD": 20}
    assert bad.calls > 0


async def test_a_repeat_and_a_trial_write_nothing_more(house: PaymentHouse) -> None:
    org, notes = new_id(), Notes()
    command = notes.credit(org, "once")
    first, again = await house.engine.submit([command, replace(command)])
    assert isinstance(first, Posted)
    assert isinstance(again, Posted)
    assert (first.replayed, again.replayed, notes.calls) == (False, True, 1)
    (trial,) = await house.engine.submit([notes.credit(org, "trial", validate_only=True)])
    assert isinstance(trial, Posted)
    assert notes.calls == 1
