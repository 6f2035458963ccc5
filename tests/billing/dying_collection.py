"""A process that applies webhooks and does what follows for subscriptions, and is killed at a named point of it."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final

from services.billing import next_steps
from services.billing.payment import steps
from services.billing.payment.providers.stripe.provider import Stripe
from services.billing.recurring import store
from services.billing.recurring.charger import CollectingCharger
from services.billing.recurring.saved_methods import SavedMethods
from services.billing.recurring.worker import RecurringWorker
from services.billing.subscription.creation import Creation
from services.billing.subscription.execution import Execution
from tests.billing.collecting_house import CollectingHouse
from tests.billing.period_house import open_house
from tests.billing.shop import open_branch
from tests.support.clock import FixedClock
from tests.support.providers.lemon_squeezy import FakeLemonSqueezy
from tests.support.providers.stripe import FakeStripe

_BEFORE: Final[dict[str, tuple[Any, str]]] = {
    "step claimed": (RecurringWorker, "_look"),
    "event planned": (Execution, "_charge"),
    "step to be done": (next_steps, "done"),
}
_AFTER: Final[dict[str, tuple[Any, str]]] = {
    "payment committed": (steps.Steps, "_do"),
    "subscription made": (Creation, "_insert"),
    "plan change begun": (store, "set_subscription"),
    "payment chosen": (CollectingCharger, "_use"),
    "charged": (CollectingCharger, "charge"),
    "charge pending": (SavedMethods, "_find_or_store"),
    "provider charged": (Stripe, "charge_saved"),
    "charge known": (SavedMethods, "_asked"),
    "provider told": (Stripe, "set_renewal"),
    "step done": (next_steps, "done"),
}
PURCHASE: Final = (
    *("payment committed", "step claimed", "plan change begun", "subscription made", "event planned"),
    *("payment chosen", "charged", "step to be done"),
)
"""The points of a purchase, in the order in which they are reached: each process goes on where the last was killed."""
RENEWAL: Final = (
    *("event planned", "charge pending", "provider charged", "charge known", "payment chosen", "charged"),
    *("provider told", "step done"),
)
"""The points of a charge of a saved method, and of an end that a provider is told of."""


def run(url: str, point: str, now: datetime, stripe_port: int, lemon_port: int) -> None:
    """Do all that is due; die the first time that the point is reached."""
    owner, name = (_BEFORE | _AFTER)[point]
    setattr(owner, name, _dying(getattr(owner, name), before=point in _BEFORE))

    async def work() -> None:
        clock = FixedClock(now)
        stripe = FakeStripe(clock=clock, port=stripe_port)
        lemon = FakeLemonSqueezy(clock=clock, port=lemon_port)
        async with open_branch(url, clock, stripe, lemon) as shop, open_house(url, clock) as house:
            await CollectingHouse(shop, house).work()

    asyncio.run(work())


def _dying(function: Callable[..., Awaitable[Any]], *, before: bool) -> Callable[..., Awaitable[Any]]:
    async def dying(*args: Any, **kwargs: Any) -> Any:
        if before:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = await function(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return dying
