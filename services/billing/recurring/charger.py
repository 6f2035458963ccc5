"""Takes what subscriptions cost from where each says: the balance, a saved method, or what a provider took by itself.

What a provider takes comes to the balance as a payment, and the charge takes it from there. Which payment pays which
charge is stored before the charge is made, so that no payment pays two, also after a crash. Such a charge is posted
whatever else has used the balance meanwhile: it was paid.
"""

from collections.abc import Sequence

from libs.common.clock import Clock
from libs.common.shards import Shards
from services.billing import errors
from services.billing.ledger.domain import Mode
from services.billing.ledger.engine import Engine
from services.billing.recurring import store
from services.billing.recurring.saved_methods import SavedMethods
from services.billing.subscription.charger import Charged, Demand, charged, movement
from services.billing.subscription.domain import Way
from services.billing.subscription.states import EventKind


class CollectingCharger:
    """Charges events; it is the `Charger` of `services.billing.subscription.charger`."""

    def __init__(self, shards: Shards, engine: Engine, saved_methods: SavedMethods, clock: Clock) -> None:
        self._shards = shards
        self._engine = engine
        self._saved_methods = saved_methods
        self._clock = clock

    async def charge(self, demands: Sequence[Demand]) -> Sequence[Charged]:
        """Charge events that cost something; see Charger."""
        paid = await self._paid([one for one in demands if _is_collected(one)])
        answers: dict[int, Charged] = {}
        commands, places = [], []
        for place, one in enumerate(demands):
            problem = paid[_key(one)] if _is_collected(one) else None
            if problem is not None:
                answers[place] = problem
            else:
                commands.append(movement(one.event, Mode.MUST_POST if _is_collected(one) else Mode.GUARDED))
                places.append(place)
        if commands:
            answers |= zip(places, map(charged, await self._engine.submit(commands)), strict=True)
        return [answers[place] for place in range(len(demands))]

    async def _paid(self, demands: Sequence[Demand]) -> dict[str, Exception | None]:
        """Return for each demand, by its key, None where a payment pays it, else why none does."""
        found: dict[str, Exception | None] = {}
        missing: list[Demand] = []
        for one in demands:
            found[_key(one)] = None
            if not await self._has_payment(one):
                missing.append(one)
        asked = [one for one in missing if one.subscription.collection is Way.SAVED_METHOD]
        for one in missing:
            provider = one.subscription.collection_provider
            found[_key(one)] = errors.PeriodNotPaid(provider=provider)
        for one, outcome in zip(asked, await self._saved_methods.charge(asked) if asked else (), strict=True):
            found[_key(one)] = outcome if isinstance(outcome, Exception) else None
            if isinstance(outcome, str):
                await self._use(one, outcome)
        return found

    async def _has_payment(self, demand: Demand) -> bool:
        """Return whether a payment that is there pays a charge, and note which."""
        event = demand.event
        assert event.charge_operation_id is not None
        assert event.charge is not None
        async with self._shards.of(event.organization_id).raw_connection() as connection:
            if await store.payment_of(connection, event.organization_id, event.charge_operation_id) is not None:
                return True
            unused = await store.find_unused(connection, demand.subscription, event.charge)
        if unused is not None:
            await self._use(demand, unused)
        return unused is not None

    async def _use(self, demand: Demand, payment_id: str) -> None:
        event, now = demand.event, self._clock.now()
        assert event.charge_operation_id is not None
        async with self._shards.of(event.organization_id).raw_transaction() as connection:
            await store.use(
                connection,
                event.organization_id,
                payment_id,
                event.subscription_id,
                event.charge_operation_id,
                now,
            )


def _is_collected(demand: Demand) -> bool:
    """Return whether the provider pays a charge. What is short of a minimum is taken from the balance, as usage is."""
    if demand.subscription.collection is Way.BALANCE or demand.event.kind is EventKind.MINIMUM_CHARGED:
        return False
    charge = demand.event.charge
    return charge is not None and charge.value > 0


def _key(demand: Demand) -> str:
    return f"{demand.event.organization_id}/{demand.event.charge_operation_id}"
