"""Applies what providers say to payments, in any order and any number of times."""

import asyncio
import random
from collections.abc import Hashable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from libs.common.clock import Clock
from libs.common.database import RawConnection
from libs.common.errors import Conflict, Refusal
from libs.common.ids import is_id, new_id
from libs.common.shards import Shards
from libs.common.text import storable
from services.billing import errors, payment_errors
from services.billing.payment import refund_store, store, subscription_store
from services.billing.payment.domain import (
    TEXT_MAX,
    Brings,
    Credits,
    Payment,
    RefundState,
    as_charged,
    as_taken,
    is_settled,
)
from services.billing.payment.facts import flaw, identifying, mismatch, named, refused, unchanged, with_taxes_told
from services.billing.payment.locks import KeyedLocks
from services.billing.payment.provider import (
    MANUAL,
    Applied,
    Fact,
    FactStatus,
    Occasion,
    PaymentFact,
    Reference,
    ReferenceKind,
    RefusedFor,
    Result,
    SubscriptionFact,
)
from services.billing.payment.references import Claim, ProvidersReference, References, of_checkout
from services.billing.payment.said import Field, Saying, merge, told_apart, told_by
from services.billing.payment.steps import Extra, Steps

_TRIES_MAX: Final = 6
_BACKOFF_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class _Place:
    """Which payment a fact is about."""

    claim: Claim
    first: Claim | None
    """For a payment of a subscription: the subscription's first payment."""
    unclaimed: tuple[ProvidersReference, ...]
    """References that belong to the payment."""
    unclaimed_subscription: tuple[ProvidersReference, ...]
    """A reference that belongs to the first payment."""
    is_new: bool
    """Whether it is a payment that nothing was said of before."""


class Payments:
    """Applies facts: see the module. It is the `FactApplier` of `provider`."""

    def __init__(self, shards: Shards, references: References, steps: Steps, clock: Clock) -> None:
        self._shards = shards
        self._references = references
        self._steps = steps
        self._clock = clock
        self._locks = KeyedLocks()

    async def apply(self, fact: Fact) -> Applied:
        """Apply a fact; a repeat, or an older fact after a newer one, changes nothing.

        Raises:
            Conflict, Overloaded, Unavailable: it is not known whether it was applied. Apply it again.
        """
        problem = flaw(fact)
        if problem:
            return refused(RefusedFor.INVALID, problem)
        if isinstance(fact, PaymentFact) and fact.failure:
            fact = replace(fact, failure=storable(fact.failure, TEXT_MAX))
        for tries in range(_TRIES_MAX):
            try:
                async with self._locks.hold(_lock_key(fact)):
                    if isinstance(fact, SubscriptionFact):
                        return await self._apply_to_subscription(fact)
                    return await self._apply_to_payment(fact)
            except payment_errors.PaymentChanged:
                await asyncio.sleep(_BACKOFF_S * 2**tries * random.uniform(0.5, 1))
        raise Conflict

    async def _apply_to_payment(self, fact: PaymentFact) -> Applied:
        place = await self._locate(fact)
        if isinstance(place, Applied):
            return place
        async with self._locks.hold(place.claim.payment_id):
            payment = await self._find(place.claim)
            if payment is None and place.first is not None and place.first != place.claim:
                payment = await self._renewal(fact, place)
            if payment is None:
                return Applied(Result.PARKED, detail="its payment is not stored yet")
            problem = mismatch(payment, fact)
            if problem is not None:
                return problem
            if await self._is_paid_by_another_order(payment, fact):
                return refused(RefusedFor.ANOTHER_PAYMENT, "the checkout was paid by another order before", payment)
            if Field.DISPUTED in payment.said and named(fact, ReferenceKind.DISPUTE) is not None:
                payment = await self._with_disputes_apart(payment)
            await self._claim(place)
            fact = with_taxes_told(payment, fact)
            changed = _told(payment, fact)
            if changed == payment and payment.revision and is_settled(payment):
                return unchanged(payment, fact)
            try:
                done = await self._steps.store(changed, _failing(fact, self._clock.now()))
            except (errors.AccountClosed, errors.TooManyGrants) as refusal:
                return await self._wait(payment, changed, fact, refusal)
            return Applied(Result.APPLIED, None, done.organization_id, done.payment_id)

    async def _wait(self, payment: Payment, told: Payment, fact: PaymentFact, refusal: Refusal) -> Applied:
        """Store what was said of a payment whose account does not take what follows: `settle` does that later."""
        is_closed = isinstance(refusal, errors.AccountClosed)
        if not payment.awarded and not is_closed:
            return Applied(Result.PARKED, detail="the account has too many grants")
        waiting = told if payment.awarded else as_charged(payment, told)
        if waiting != payment:
            await self._steps.keep(waiting, _failing(fact, self._clock.now()))
        if not payment.awarded:
            return refused(RefusedFor.ACCOUNT_CLOSED, "the account that it is for is closed", payment)
        if waiting == payment:
            return unchanged(payment, fact)
        return Applied(Result.APPLIED, None, payment.organization_id, payment.payment_id)

    async def settle(self, organization_id: str, payment_id: str) -> None:
        """Do what is left to do of a payment: a process died, or its account was closed and is open again.

        Raises:
            AccountClosed, TooManyGrants, BalanceOutOfRange: the account still does not take it.
            PaymentChanged, Overloaded, Unavailable: it is not known whether it was done. Do it again.
        """
        async with self._locks.hold(payment_id):
            payment = await self._find(Claim(organization_id, payment_id))
            if payment is not None and not is_settled(payment):
                await self._steps.store(as_taken(payment))

    async def _locate(self, fact: PaymentFact) -> _Place | Applied:
        """Find the payment that a fact is about, by its references and by our checkout."""
        references = [ProvidersReference(fact.provider, one) for one in identifying(fact)]
        subscription = _subscription_of(fact)
        checkout = _checkout_of(fact.checkout_id)
        claims = await self._references.find({*references, *subscription, *checkout})
        first = next((claims[one] for one in (*subscription, *checkout) if one in claims), None)
        found = {claims[one] for one in references if one in claims}
        if fact.occasion is not Occasion.RENEWAL:
            found |= {claims[one] for one in checkout if one in claims}
            if not found and fact.occasion is Occasion.FIRST and first is not None:
                found = {first}
        if len({one.organization_id for one in found | ({first} if first else set())}) > 1:
            return refused(RefusedFor.ANOTHER_ORGANIZATION, "its references belong to different organizations")
        if len(found) > 1:
            return refused(RefusedFor.ANOTHER_PAYMENT, "its references belong to different payments")
        is_renewal = fact.occasion is Occasion.RENEWAL
        if found:
            claim = next(iter(found))
        elif is_renewal and first is not None and references:
            claim = Claim(first.organization_id, new_id())
        else:
            what = "subscription" if is_renewal else "checkout"
            return Applied(Result.PARKED, detail=f"its {what} is not known yet")
        return _Place(
            claim,
            first if is_renewal else claim,
            tuple(one for one in references if one not in claims),
            tuple(one for one in subscription if one not in claims),
            is_new=not found,
        )

    async def _claim(self, place: _Place) -> None:
        """Claim what belongs to the payment.

        Raises:
            PaymentChanged: another fact has claimed some of it meanwhile.
        """
        now = self._clock.now()
        if await self._references.claim(place.unclaimed, place.claim, now):
            raise payment_errors.PaymentChanged(payment_id=place.claim.payment_id)
        if place.first is not None and await self._references.claim(place.unclaimed_subscription, place.first, now):
            raise payment_errors.PaymentChanged(payment_id=place.claim.payment_id)

    async def _is_paid_by_another_order(self, payment: Payment, fact: PaymentFact) -> bool:
        """Tell whether a fact is of a second order of a checkout: the payer has paid its page twice.

        The first one counts. An operator sees the refused webhook, and gives the second one's money back.
        """
        order = _order_of(fact)
        if order is None or not payment.is_paid:
            return False
        if payment.order is not None:
            return payment.order != str(order)
        # Completed before payments said which order did it.
        known = await self._references.of_payments(payment.organization_id, [payment.payment_id])
        return any(
            one != order and (one.provider, one.reference.kind) == (order.provider, ReferenceKind.ORDER)
            for one in known[payment.payment_id]
        )

    async def _with_disputes_apart(self, payment: Payment) -> Payment:
        """Return a payment that was stored when what was said of disputes was not kept by their ids."""
        known = (await self._references.of_payments(payment.organization_id, [payment.payment_id])).values()
        references = [one.reference for found in known for one in found if one.provider == payment.provider]
        ids = [one.external_id for one in references if one.kind is ReferenceKind.DISPUTE]
        return replace(payment, said=told_apart(payment.said, ids))

    async def _find(self, claim: Claim) -> Payment | None:
        async with self._shards.of(claim.organization_id).raw_connection() as connection:
            return await store.find(connection, claim.organization_id, claim.payment_id)

    async def _renewal(self, fact: PaymentFact, place: _Place) -> Payment | None:
        """Return a new payment of a subscription that its provider renews: what the first one was, once more."""
        assert place.first is not None
        first = await self._find(place.first)
        if first is None:
            return None
        return renewal_of(first, place.claim.payment_id, fact, self._clock.now())

    async def _apply_to_subscription(self, fact: SubscriptionFact) -> Applied:
        reference = ProvidersReference(fact.provider, Reference(ReferenceKind.SUBSCRIPTION, fact.external_id))
        checkout = _checkout_of(fact.checkout_id)
        claims = await self._references.find({reference, *checkout})
        found = {claims[one] for one in (reference, *checkout) if one in claims}
        if not found:
            return Applied(Result.PARKED, detail="its checkout is not known yet")
        if len(found) > 1:
            return refused(RefusedFor.ANOTHER_PAYMENT, "its references belong to different payments")
        claim = next(iter(found))
        first = await self._find(claim)
        if first is None:
            return Applied(Result.PARKED, detail="its first payment is not stored yet")
        if first.provider not in (fact.provider, MANUAL):
            return refused(RefusedFor.WRONG_PROVIDER, "the payment is another provider's", first)
        if first.is_test != fact.is_test:
            return refused(RefusedFor.WRONG_MODE, "test mode and live mode do not go together", first)
        if await self._references.claim([reference], claim, self._clock.now()):
            raise payment_errors.PaymentChanged(payment_id=claim.payment_id)
        async with self._shards.of(claim.organization_id).raw_transaction() as connection:
            result = await subscription_store.put(connection, claim, fact, self._clock.now())
        return Applied(result, None, claim.organization_id, claim.payment_id)


def renewal_of(first: Payment, payment_id: str, fact: PaymentFact, now: datetime) -> Payment:
    """Return a payment of a provider's subscription, before anything was said of it.

    Where the first one was taken over from another system, what it brought was there already; this one brings money.
    """
    brings, credits_ = first.brings, first.credits
    if first.provider == MANUAL and brings is Brings.NOTHING:
        brings, credits_ = Brings.MONEY, Credits(first.currency_code, first.amount)
    return Payment(
        organization_id=first.organization_id,
        payment_id=payment_id,
        type=first.type,
        provider=fact.provider,
        amount=first.amount,
        currency_code=first.currency_code,
        brings=brings,
        credits=credits_,
        is_test=first.is_test,
        actor=f"provider:{fact.provider}",
        create_time=now,
        update_time=now,
        said={},
        user_id=first.user_id,
        product_code=first.product_code,
        plan_code=first.plan_code,
        subscription_id=first.subscription_id,
        first_payment_id=first.payment_id,
        external_product_id=first.external_product_id,
        description=first.description,
        metadata=first.metadata,
    )


def _failing(fact: PaymentFact, now: datetime) -> Extra | None:
    """Return what notes that a refund that was asked for here has failed; None where a fact says nothing of one."""
    refund_id = None if fact.failed_refund is None else fact.failed_refund.refund_id
    if refund_id is None or not is_id(refund_id):
        return None

    async def fail(connection: RawConnection, payment: Payment) -> None:
        await refund_store.end_refund(
            *(connection, payment.organization_id, payment.payment_id, refund_id, RefundState.FAILED),
            "The provider could not give the money back.",
            now,
            RefundState.COMPLETED,
        )

    return fail


def _told(payment: Payment, fact: PaymentFact) -> Payment:
    """Return the payment with what a fact says."""
    subscription, customer = named(fact, ReferenceKind.SUBSCRIPTION), named(fact, ReferenceKind.CUSTOMER)
    said = merge(payment.said, told_by(fact))
    order = _order_of(fact)
    if order is not None and fact.status is FactStatus.COMPLETED:
        said.setdefault(Field.ORDER, Saying(fact.version, str(order)))
    return replace(
        payment,
        said=said,
        external_subscription_id=payment.external_subscription_id
        or (subscription and f"{fact.provider}/{subscription}"),
        external_customer_id=payment.external_customer_id or (customer and f"{fact.provider}/{customer}"),
    )


def _subscription_of(fact: PaymentFact) -> tuple[ProvidersReference, ...]:
    external_id = named(fact, ReferenceKind.SUBSCRIPTION)
    if external_id is None:
        return ()
    return (ProvidersReference(fact.provider, Reference(ReferenceKind.SUBSCRIPTION, external_id)),)


def _order_of(fact: PaymentFact) -> ProvidersReference | None:
    external_id = named(fact, ReferenceKind.ORDER)
    if external_id is None:
        return None
    return ProvidersReference(fact.provider, Reference(ReferenceKind.ORDER, external_id))


def _checkout_of(checkout_id: str | None) -> tuple[ProvidersReference, ...]:
    if checkout_id is None or not is_id(checkout_id.lower()):
        return ()
    return (of_checkout(checkout_id.lower()),)


def _lock_key(fact: Fact) -> Hashable:
    """Return by what facts are applied one after another that may be about one payment of which nothing is known."""
    if isinstance(fact, SubscriptionFact):
        return fact.provider, "subscription", fact.external_id
    found = identifying(fact)
    return fact.provider, "payment", found[0] if found else fact.checkout_id
