"""A process that tops accounts up through Stripe's fake, and is killed at a named point of it."""

import asyncio
import os
import signal
from collections.abc import Collection
from datetime import datetime
from multiprocessing.synchronize import Barrier
from typing import Any, Final

from libs.common.clock import Clock
from libs.common.database import RawConnection
from services.billing.payment import references, store, top_up_store
from services.billing.payment.domain import Payment
from services.billing.payment.payments import Payments
from services.billing.payment.provider import Applied, Fact, NewCharge, PaymentFact, Provider
from services.billing.payment.providers.http import Api
from services.billing.payment.providers.stripe.provider import Stripe
from services.billing.payment.references import Claim, ProvidersReference
from services.billing.payment.top_up_domain import TopUpPolicy
from services.billing.payment.top_ups import TopUps
from tests.billing.payment_house import PaymentHouse, open_payments
from tests.support.clock import FixedClock
from tests.support.providers.stripe import SECRET_KEY

POINTS: Final = (
    "reference claimed",
    "payment stored",
    "policy noted",
    "begun",
    "provider asked and not answered",
    "answered and not applied",
    "applied",
    "policy noted again",
)


def top_ups_of(house: PaymentHouse, stripe: Provider, clock: Clock) -> TopUps:
    """Return what tops accounts up in one process."""
    return TopUps(house.shards, house.references, house.payments, {"stripe": stripe}, clock, is_test=False)


def run(url: str, stripe_url: str, point: str, together: Barrier | None = None) -> None:
    """Look at all policies once, when all others are ready to; die the first time that the point is reached."""

    async def work() -> None:
        _plant(point)
        clock = FixedClock()
        stripe = Stripe(SECRET_KEY, stripe_url, clock)
        async with open_payments(url, clock=clock) as house:
            if together is not None:
                together.wait()
            for database in house.shards:
                await top_ups_of(house, stripe, clock).sweep(database)
        await stripe.close()

    asyncio.run(work())


def _plant(point: str) -> None:
    def reached(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    claim, put, note = references.References.claim, store.put, top_up_store.put
    charge, exchange, ask, apply = TopUps._charge, Api._exchange, Stripe.charge_saved, Payments.apply
    noted: list[TopUpPolicy] = []

    async def claimed(
        self: references.References, wanted: Collection[ProvidersReference], by: Claim, now: datetime
    ) -> set[ProvidersReference]:
        others = await claim(self, wanted, by, now)
        reached("reference claimed")
        return others

    async def stored(connection: RawConnection, payment: Payment) -> bool:
        done = await put(connection, payment)
        reached("payment stored")
        return done

    async def noting(connection: RawConnection, policy: TopUpPolicy) -> None:
        await note(connection, policy)
        reached("policy noted again" if noted else "policy noted")
        noted.append(policy)

    async def begun(self: TopUps, policy: TopUpPolicy, payment: Payment) -> None:
        reached("begun")
        await charge(self, policy, payment)

    async def exchanged(self: Api, method: str, path: str, *rest: Any) -> tuple[int, int, bytes]:
        answer = await exchange(self, method, path, *rest)
        if method == "POST":
            reached("provider asked and not answered")
        return answer

    async def asked(self: Stripe, new: NewCharge) -> PaymentFact:
        fact = await ask(self, new)
        reached("answered and not applied")
        return fact

    async def applied(self: Payments, fact: Fact) -> Applied:
        done = await apply(self, fact)
        reached("applied")
        return done

    for owner, name, planted in (
        (references.References, "claim", claimed),
        (store, "put", stored),
        (top_up_store, "put", noting),
        (TopUps, "_charge", begun),
        (Api, "_exchange", exchanged),
        (Stripe, "charge_saved", asked),
        (Payments, "apply", applied),
    ):
        setattr(owner, name, planted)
