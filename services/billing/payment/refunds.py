"""Refunds payments, in whole or in part: by hand, or by asking the provider, once for each request."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from libs.common.audit.recording import Changed, record_event
from libs.common.call import current_actor
from libs.common.clock import Clock
from libs.common.database import ConstraintViolation, RawConnection
from libs.common.errors import (
    Conflict,
    FieldViolation,
    InvalidArgument,
    NotFound,
    RequestIdReused,
    Unavailable,
)
from libs.common.ids import new_id
from libs.common.shards import Shards
from services.billing import payment_errors as errors
from services.billing.payment import refund_store, store
from services.billing.payment.asking import as_refusals, find_provider
from services.billing.payment.domain import ZERO, Payment, Refund, RefundState, refundable
from services.billing.payment.locks import KeyedLocks
from services.billing.payment.payments import Payments
from services.billing.payment.provider import (
    MANUAL,
    FactStatus,
    NewRefund,
    Provider,
    Result,
    Version,
)
from services.billing.payment.references import References
from services.billing.payment.said import Field, Saying, merge
from services.billing.payment.steps import Steps

_TRIES_MAX: Final = 6
_WHAT: Final = "refund payments"
_BACKOFF_S: Final = 0.02
_ATTEMPT_MAX: Final = timedelta(minutes=10)
"""How long a call to a provider may take, with all its retries."""
_KEY_KEPT: Final = timedelta(hours=20)
"""For how long a provider surely knows the key of a refund: Stripe for 24 hours
(docs.stripe.com/api/idempotent_requests)."""


@dataclass(frozen=True, slots=True)
class NewRefundRequest:
    """A refund that an operator asks for."""

    organization_id: str
    payment_id: str
    request_id: str
    amount: Decimal | None
    """None for all that is left."""
    currency_code: str | None
    reason: str


class Refunds:
    """Refunds payments, by hand or through their providers."""

    def __init__(
        self,
        shards: Shards,
        references: References,
        steps: Steps,
        payments: Payments,
        providers: Mapping[str, Provider],
        clock: Clock,
    ) -> None:
        self._shards = shards
        self._references = references
        self._steps = steps
        self._payments = payments
        self._providers = providers
        self._clock = clock
        self._locks = KeyedLocks()

    async def refund(self, asked: NewRefundRequest) -> tuple[str, bool]:
        """Refund a payment or a part of it; return the refund's id, and whether this repeats an earlier request.

        Raises:
            NotFound: the organization has no such payment.
            RequestIdReused: the request has refunded something else.
            PaymentNotRefundable, RefundExceedsPayment, RefundUnderWay: as their names say.
            InvalidArgument: it is in another currency, or not what the provider can give back in it.
            AccountClosed: nothing can be taken back from a closed account.
            RefundNotApplied: the provider has made it, and nothing was taken back for it.
            PaymentProviderDeclined, PaymentProviderUnknown, PaymentProviderMisconfigured, PaymentProviderCannot: too.
            Unavailable: the provider cannot be reached, or it is not known what it did. Repeat it.
        """
        for tries in range(_TRIES_MAX):
            try:
                async with self._locks.hold((asked.organization_id, asked.payment_id)):
                    return await self._refund(asked)
            except errors.PaymentChanged:
                await asyncio.sleep(_BACKOFF_S * 2**tries * random.uniform(0.5, 1))
        raise Conflict

    async def _refund(self, asked: NewRefundRequest) -> tuple[str, bool]:
        payment, refund = await self._requested(asked)
        if refund is not None and refund.state is not RefundState.REQUESTED:
            if refund.state is RefundState.FAILED:
                raise errors.PaymentProviderDeclined(provider=payment.provider, provider_message=refund.failure)
            return refund.refund_id, True
        if refund is None and payment.credits is not None:
            await self._steps.require_open(payment.organization_id, payment.credits.currency_code)
        if payment.provider == MANUAL:
            return await self._refund_by_hand(payment, asked), False
        _, provider = find_provider(self._providers, payment.provider, _WHAT)
        if refund is None:
            refund = await self._request(asked, provider)
        await self._ask(provider, payment, refund)
        return refund.refund_id, False

    async def _requested(self, asked: NewRefundRequest) -> tuple[Payment, Refund | None]:
        """Return the payment, and the refund of an earlier request with this id."""
        async with self._shards.of(asked.organization_id).raw_connection() as connection:
            payment = await store.find(connection, asked.organization_id, asked.payment_id)
            known = await refund_store.find_refund(connection, asked.organization_id, asked.request_id)
        if known is not None:
            payment_id, refund = known
            before = (payment_id, refund.requested_amount, refund.reason)
            now = (asked.payment_id, asked.amount, asked.reason)
            for field, old, new in zip(("payment_id", "amount", "reason"), before, now, strict=True):
                if old != new:
                    raise RequestIdReused(request_id=asked.request_id, field=field)
        if payment is None:
            raise NotFound(resource_type="payment", resource_name=asked.payment_id)
        if asked.currency_code not in (None, payment.currency_code):
            raise InvalidArgument([FieldViolation("amount.currency_code", f"must be {payment.currency_code}")])
        return payment, None if known is None else known[1]

    async def _refund_by_hand(self, payment: Payment, asked: NewRefundRequest) -> str:
        """Record a refund for which no provider is asked."""
        now = self._clock.now()
        refund = new_refund(payment, (), asked, RefundState.COMPLETED, now)
        before = payment.said.get(Field.REFUNDED)
        version = Version(now if before is None else max(now, before.version.time))
        total = format((payment.refunded_amount + refund.amount).normalize(), "f")
        changed = replace(payment, said=merge(payment.said, {Field.REFUNDED: Saying(version, total)}))

        async def extra(connection: RawConnection, done: Payment) -> None:
            await refund_store.add_refund(connection, done.organization_id, done.payment_id, refund)
            await _audit_refund(connection, done, refund)

        try:
            await self._steps.store(changed, extra)
        except ConstraintViolation:
            raise errors.PaymentChanged(payment_id=payment.payment_id) from None
        return refund.refund_id

    async def _request(self, asked: NewRefundRequest, provider: Provider) -> Refund:
        """Store that a provider is going to be asked for a refund, so that no other refund takes the same money."""
        now = self._clock.now()
        try:
            async with self._shards.of(asked.organization_id).raw_transaction() as connection:
                payment = await store.lock(connection, asked.organization_id, asked.payment_id)
                assert payment is not None, "payments are never deleted"
                refunds = await refund_store.find_refunds(connection, asked.organization_id, asked.payment_id)
                refund = new_refund(payment, refunds, asked, RefundState.REQUESTED, now)
                rule = _inexact(refund, payment, provider)
                if rule:
                    raise InvalidArgument([FieldViolation("amount.value", rule)])
                await refund_store.add_refund(connection, asked.organization_id, asked.payment_id, refund)
                await _audit_refund(connection, payment, refund)
        except ConstraintViolation:
            raise errors.PaymentChanged(payment_id=asked.payment_id) from None
        return refund

    async def _ask(self, provider: Provider, payment: Payment, refund: Refund) -> None:
        """Ask a provider for a refund, and apply what it says. It refunds once however often it is asked."""
        rule = _inexact(refund, payment, provider)
        if rule:
            # Stored by a version that did not refuse it. No provider was ever asked for such an amount.
            failure = f"the amount {rule}"
            await self._end(payment, refund, RefundState.FAILED, failure)
            raise errors.PaymentProviderDeclined(provider=payment.provider, provider_message=failure)
        references = (await self._references.of_payments(payment.organization_id, [payment.payment_id])).values()
        named = tuple(one.reference for found in references for one in found if one.provider == payment.provider)
        attempt = await self._begin_attempt(payment, refund)
        new = NewRefund(
            refund.refund_id,
            named,
            refund.amount,
            payment.currency_code,
            refund.reason,
            payment.amount,
            refund.refunded_before,
            may_be_made=attempt > 1 or self._clock.now() - refund.create_time > _KEY_KEPT,
        )
        try:
            with as_refusals(payment.provider, _WHAT):
                fact = await provider.refund(new)
        except (errors.PaymentProviderDeclined, errors.PaymentProviderCannot) as refusal:
            await self._end(payment, refund, RefundState.FAILED, str(refusal.__cause__)[:500])
            raise
        except (errors.PaymentProviderMisconfigured, Unavailable):
            await self._end_attempt(payment, refund, attempt)
            raise
        applied = await self._payments.apply(fact)
        if applied.result in (Result.REFUSED, Result.PARKED):
            # The money is given back, so it stays asked for, and no other refund takes it once more.
            await self._end_attempt(payment, refund, attempt)
            raise errors.RefundNotApplied(provider=payment.provider, detail=applied.detail)
        await self._end(payment, refund, RefundState.COMPLETED, "")

    async def _begin_attempt(self, payment: Payment, refund: Refund) -> int:
        """Take the turn to ask for a refund, and return how often it was taken.

        A process that dies with the turn, or a call that is cancelled, keeps it until the provider has surely answered.
        """
        now = self._clock.now()
        async with self._shards.of(payment.organization_id).raw_connection() as connection:
            attempt = await refund_store.begin_attempt(
                connection, payment.organization_id, payment.payment_id, refund.refund_id, now, now + _ATTEMPT_MAX
            )
        if attempt is None:
            raise Conflict
        return attempt

    async def _end_attempt(self, payment: Payment, refund: Refund, attempt: int) -> None:
        async with self._shards.of(payment.organization_id).raw_connection() as connection:
            await refund_store.end_attempt(
                connection, payment.organization_id, payment.payment_id, refund.refund_id, attempt
            )

    async def _end(self, payment: Payment, refund: Refund, state: RefundState, failure: str) -> None:
        async with self._shards.of(payment.organization_id).raw_connection() as connection:
            await refund_store.end_refund(
                connection,
                payment.organization_id,
                payment.payment_id,
                refund.refund_id,
                state,
                failure,
                self._clock.now(),
            )


def new_refund(
    payment: Payment, refunds: tuple[Refund, ...], asked: NewRefundRequest, state: RefundState, now: datetime
) -> Refund:
    """Return the refund that is asked for.

    Raises:
        PaymentNotRefundable: the payment is not paid, or is disputed.
        RefundExceedsPayment: less is left.
        RefundUnderWay: it is not known what became of another refund of the payment.
    """
    if payment.base is not FactStatus.COMPLETED or payment.disputed:
        raise errors.PaymentNotRefundable(status=payment.status.value)
    left = refundable(payment, refunds)
    amount = left if asked.amount is None else asked.amount
    if amount > left or amount <= ZERO:
        raise errors.RefundExceedsPayment(remaining=left, currency_code=payment.currency_code)
    for other in refunds:
        if other.state is RefundState.REQUESTED:
            raise errors.RefundUnderWay(request_id=other.request_id)
    ended = None if state is RefundState.REQUESTED else now
    return Refund(
        new_id(),
        asked.request_id,
        asked.amount,
        amount,
        state,
        asked.reason,
        current_actor(),
        now,
        payment.refunded_amount,
        complete_time=ended,
    )


def _inexact(refund: Refund, payment: Payment, provider: Provider) -> str:
    """Return what the amount of a refund must be, so that the provider can give it back; empty where it is."""
    smallest = provider.smallest(payment.currency_code)
    if not refund.amount % smallest:
        return ""
    return f"must be a multiple of {smallest}, which {payment.provider} can give back in {payment.currency_code}"


async def _audit_refund(connection: RawConnection, payment: Payment, refund: Refund) -> None:
    await record_event(
        connection,
        now=refund.create_time,
        organization_id=payment.organization_id,
        resource_type="payment",
        resource_id=payment.payment_id,
        changed=(
            Changed("refund", None, f"{refund.amount.normalize():f} {payment.currency_code}"),
            Changed("reason", None, refund.reason),
        ),
    )
