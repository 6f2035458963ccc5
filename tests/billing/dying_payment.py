"""A process that applies a fact, or records or refunds a payment, and is killed at a named point of it."""

import asyncio
import os
import signal
from collections.abc import Collection, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

from libs.common.database import RawConnection
from services.billing.payment import references, steps, store
from services.billing.payment.domain import Brings, Credits, Payment, PaymentType
from services.billing.payment.movements import Moved
from services.billing.payment.provider import Method, PaymentFact
from services.billing.payment.records import NewRecord
from services.billing.payment.references import Claim, ProvidersReference
from services.billing.payment.refunds import NewRefundRequest
from tests.billing.payment_house import PaymentHouse, open_payments

POINTS: Final = ("references claimed", "ledger written", "payment written", "movements written", "committed")


def record_of(organization_id: str) -> NewRecord:
    """Return a bank transfer of 10 USD."""
    return NewRecord(
        organization_id=organization_id,
        operation_id="transfer",
        user_id=None,
        type=PaymentType.TOP_UP,
        amount=Decimal(10),
        currency_code="USD",
        method=Method.BANK_TRANSFER,
        brings=Brings.MONEY,
        credits=Credits("USD", Decimal(10)),
        product_code=None,
        subscription_id=None,
        plan_code=None,
        references=(),
        processed_time=None,
        receipt_url="",
        description="",
        metadata=None,
        reason="test",
        request={"amount": "10"},
    )


async def record_and_refund(house: PaymentHouse, organization_id: str) -> None:
    """Record a payment and refund a part of it, as a caller does that repeats what it has no answer to."""
    payment, _ = await house.records.record(record_of(organization_id))
    asked = NewRefundRequest(organization_id, payment.payment_id, "back", Decimal(4), "USD", "test")
    await house.refunds.refund(asked)


def run(url: str, point: str, facts: Sequence[PaymentFact], organization_id: str) -> None:
    """Apply facts, then record and refund; die the first time that the point is reached."""

    async def work() -> None:
        _plant(point)
        async with open_payments(url) as house:
            for fact in facts:
                await house.payments.apply(fact)
            await record_and_refund(house, organization_id)

    asyncio.run(work())


def _plant(point: str) -> None:
    def reached(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    claim, put, add_moved = references.References.claim, store.put, store.add_moved
    do = steps.Steps._do

    async def claimed(
        self: references.References, wanted: Collection[ProvidersReference], by: Claim, now: datetime
    ) -> set[ProvidersReference]:
        others = await claim(self, wanted, by, now)
        reached("references claimed")
        return others

    async def written(connection: RawConnection, payment: Payment) -> bool:
        reached("ledger written")
        done = await put(connection, payment)
        reached("payment written")
        return done

    async def moved(
        connection: RawConnection, payment: Payment, moved_: Sequence[Moved], first: int, now: datetime
    ) -> None:
        await add_moved(connection, payment, moved_, first, now)
        reached("movements written")

    async def done(self: steps.Steps, payment: Payment, *rest: object) -> Payment:
        after = await do(self, payment, *rest)  # type: ignore[arg-type]  # handed on.
        reached("committed")
        return after

    for owner, name, planted in (
        (references.References, "claim", claimed),
        (store, "put", written),
        (store, "add_moved", moved),
        (steps.Steps, "_do", done),
    ):
        setattr(owner, name, planted)
