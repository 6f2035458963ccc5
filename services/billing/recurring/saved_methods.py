"""Has providers charge saved methods of payment for what subscriptions cost, once for each charge.

The payment is stored as pending before the provider is asked under its id, which follows from the charge. A process
that dies in between leaves it pending; whoever is at the charge next asks again under the same id, for which the
provider charges once. A provider that is slow is waited for a short time only, since the subscription is locked
meanwhile: the question goes on, and what comes of it is stored with the payment.
"""

import asyncio
import contextvars
from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import ROUND_CEILING
from typing import Final

import structlog

from libs.common.clock import Clock
from libs.common.errors import Refusal
from libs.common.ids import id_at
from libs.common.shards import Shards
from services.billing import payment_errors as errors
from services.billing.payment import facts, store
from services.billing.payment.asking import (
    CHARGE_SAVED_METHOD,
    find_provider,
    log_if_not_applied,
    require_saved_methods,
)
from services.billing.payment.domain import CENT, Brings, Credits, Payment, PaymentType
from services.billing.payment.payments import Payments
from services.billing.payment.provider import (
    FactStatus,
    NewCharge,
    Provider,
    ProviderCannot,
    ProviderDeclined,
    ProviderError,
)
from services.billing.payment.references import Claim, References, of_checkout
from services.billing.payment.said import Field
from services.billing.payment.steps import Steps
from services.billing.recurring.paying import why_too_little
from services.billing.subscription.charger import Demand

_log = structlog.get_logger("saved methods")
_WAIT_S: Final = 2.5
"""Less than the five seconds for which Postgres lets a transaction do nothing, with the locks of subscriptions."""
_ASKED_AT_ONCE: Final = 8
_TOGETHER_MAX: Final = 32
"""How many charges are asked for together. Others have their turn later: the locks of all are held meanwhile."""
_ASKED_MAX: Final = 200
"""How many charges may be under way. What comes beyond has its turn later."""
_ASKED_FOR: Final = timedelta(hours=23)
"""For how long a charge is asked for again: providers know its id for a day. One that was made all the same is told of
later, and pays what is owed then."""
_ACTOR: Final = "system"


class SavedMethods:
    """Charges saved methods."""

    def __init__(
        self,
        shards: Shards,
        references: References,
        steps: Steps,
        payments: Payments,
        providers: Mapping[str, Provider],
        clock: Clock,
        *,
        is_test: bool,
    ) -> None:
        self._shards = shards
        self._references = references
        self._steps = steps
        self._payments = payments
        self._providers = providers
        self._clock = clock
        self._is_test = is_test
        self._turns = asyncio.Semaphore(_ASKED_AT_ONCE)
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def require(self, organization_id: str, provider: str) -> None:
        """Check that a provider can charge a saved method of an organization.

        Raises:
            PaymentProviderUnknown, PaymentProviderCannot, NoSavedMethod: it cannot.
        """
        name, known = find_provider(self._providers, provider, CHARGE_SAVED_METHOD)
        require_saved_methods(name, known)
        await self._customer(organization_id, name)

    async def charge(self, demands: Sequence[Demand]) -> list[str | Exception]:
        """Return for each demand the payment that brought its price, or why there is none.

        That is PaymentProviderDeclined or NoSavedMethod, and ChargeNotKnown where it is to be asked for again.
        """
        now, later = demands[:_TOGETHER_MAX], demands[_TOGETHER_MAX:]
        found = [await self._find_or_store(one) for one in now]
        pending = [one for one in found if isinstance(one, Payment) and _is_unanswered(one)]
        tasks = [self._ask(one) for one in pending if one.payment_id in self._asking or self._has_room()]
        if tasks:
            await asyncio.wait(tasks, timeout=_WAIT_S)
        known = [
            await self._outcome(payment, demand) if isinstance(payment, Payment) else payment
            for payment, demand in zip(found, now, strict=True)
        ]
        return [*known, *(errors.ChargeNotKnown(provider=one.subscription.collection_provider) for one in later)]

    async def drain(self) -> None:
        """Give up the questions that are under way: the next process asks them again."""
        for task in list(self._asking.values()):
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _find_or_store(self, demand: Demand) -> Payment | Exception:
        event = demand.event
        assert event.charge_operation_id is not None
        assert event.charge is not None
        key = f"{event.organization_id}/{event.charge_operation_id}"
        claim = Claim(event.organization_id, id_at(event.create_time, key))
        async with self._shards.of(claim.organization_id).raw_connection() as connection:
            known = await store.find(connection, claim.organization_id, claim.payment_id)
        if known is not None:
            return known
        provider = demand.subscription.collection_provider or ""
        try:
            customer = await self._customer(event.organization_id, provider)
            await self._steps.require_open(event.organization_id, event.charge.currency_code)
            await self._references.claim([of_checkout(claim.payment_id)], claim, self._clock.now())
            return await self._steps.store(self._pending(demand, claim, customer))
        except Refusal as refusal:
            return refusal

    def _pending(self, demand: Demand, claim: Claim, customer: str) -> Payment:
        event, subscription = demand.event, demand.subscription
        assert event.charge is not None
        provider, now = subscription.collection_provider or "", self._clock.now()
        known = self._providers.get(provider)
        smallest = CENT if known is None else known.smallest(event.charge.currency_code)
        # A part of a period may cost parts of a cent, or of a yen. What is paid beyond it stays on the balance.
        amount = event.charge.value.quantize(smallest, rounding=ROUND_CEILING)
        return Payment(
            organization_id=claim.organization_id,
            payment_id=claim.payment_id,
            type=PaymentType.SUBSCRIPTION,
            provider=provider,
            amount=amount,
            currency_code=event.charge.currency_code,
            brings=Brings.MONEY,
            credits=Credits(event.charge.currency_code, amount),
            is_test=self._is_test,
            actor=_ACTOR,
            create_time=now,
            update_time=now,
            said={},
            user_id=subscription.user_id,
            plan_code=None if event.plan is None else event.plan.plan_code,
            subscription_id=subscription.subscription_id,
            external_customer_id=f"{provider}/{customer}",
            operation_id=event.charge_operation_id,
            description="" if event.plan is None else f"plan {event.plan.plan_code}: {event.reason}"[:256],
        )

    async def _customer(self, organization_id: str, provider: str) -> str:
        async with self._shards.of(organization_id).raw_connection() as connection:
            customer = await store.find_customer(connection, organization_id, provider)
        if customer is None:
            raise errors.NoSavedMethod(provider=provider)
        return customer

    def _has_room(self) -> bool:
        return len(self._asking) < _ASKED_MAX

    def _ask(self, payment: Payment) -> "asyncio.Task[None]":
        """Ask for a charge, which is no single call's: neither its deadline nor its end may end the question."""
        task = self._asking.get(payment.payment_id)
        if task is None:
            task = asyncio.create_task(self._asked(payment), context=contextvars.Context())
            self._asking[payment.payment_id] = task
            task.add_done_callback(lambda _: self._asking.pop(payment.payment_id))
        return task

    async def _asked(self, payment: Payment) -> None:
        customer = (payment.external_customer_id or "").removeprefix(f"{payment.provider}/")
        new = NewCharge(
            payment.payment_id,
            customer,
            payment.amount,
            payment.currency_code,
            payment.description,
            payment.is_test,
        )
        provider = self._providers.get(payment.provider)
        try:
            async with self._turns:
                if self._clock.now() - payment.create_time > _ASKED_FOR:
                    raise ProviderDeclined("it did not answer for a day")
                if provider is None:
                    raise ProviderCannot(f"{payment.provider} is not set up")
                fact = await provider.charge_saved(new)
        except (ProviderDeclined, ProviderCannot) as error:
            fact = facts.declined(payment, str(error), self._clock.now())
        except ProviderError as error:
            _log.warning("provider not charged", provider=payment.provider, cause=type(error).__name__)
            return
        try:
            applied = await self._payments.apply(fact)
        except Refusal as refusal:
            _log.warning("charge not stored", provider=payment.provider, reason=refusal.reason)
            return
        log_if_not_applied(payment, fact, applied)

    async def _outcome(self, payment: Payment, demand: Demand) -> str | Exception:
        async with self._shards.of(payment.organization_id).raw_connection() as connection:
            found = await store.find(connection, payment.organization_id, payment.payment_id)
        assert found is not None, "payments are never deleted"
        if found.base is FactStatus.FAILED:
            return errors.PaymentProviderDeclined(
                provider=found.provider, provider_message=found.failure or "the charge"
            )
        if not found.awarded:
            return errors.ChargeNotKnown(provider=found.provider)
        assert demand.event.charge is not None
        problem = why_too_little(found, demand.event.charge.value)
        if problem:
            return errors.PaymentProviderDeclined(provider=found.provider, provider_message=problem)
        return found.payment_id


def _is_unanswered(payment: Payment) -> bool:
    """Return whether the provider has said nothing yet. What it has called pending it tells of by itself.

    What it has charged while the account was closed is completed when that is open again.
    """
    is_silent = Field.STATUS not in payment.said and not payment.waits_for_account
    return payment.base is FactStatus.PENDING and is_silent
