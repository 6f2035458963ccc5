"""Records payments that no provider tells of, and refunds payments."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
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
    Kind,
    NotFound,
    OperationIdReused,
    Refusal,
    RequestIdReused,
    Unavailable,
)
from libs.common.ids import new_id
from libs.common.shards import Shards
from services.billing import payment_errors as errors
from services.billing.payment import store
from services.billing.payment.domain import (
    ZERO,
    Brings,
    Credits,
    Field,
    Payment,
    PaymentType,
    Refund,
    RefundState,
    Saying,
    merge,
    refundable,
)
from services.billing.payment.locks import KeyedLocks
from services.billing.payment.payments import Payments
from services.billing.payment.products import Products
from services.billing.payment.provider import (
    MANUAL,
    FactStatus,
    Method,
    NewRefund,
    Provider,
    ProviderCannot,
    ProviderDeclined,
    ProviderDown,
    ProviderMisconfigured,
    ReferenceKind,
    Version,
)
from services.billing.payment.references import Claim, ProvidersReference, References
from services.billing.payment.steps import Steps

_TRIES_MAX: Final = 6
_BACKOFF_S: Final = 0.02
_UNKNOWN_END: Final = (Kind.UNAVAILABLE, Kind.DEADLINE_EXCEEDED, Kind.ABORTED)


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A payment that an operator records."""

    organization_id: str
    operation_id: str
    user_id: str | None
    type: PaymentType
    amount: Decimal
    currency_code: str
    method: Method
    brings: Brings
    credits: Credits | None
    """None where it brings nothing, and where a product says what it brings."""
    product_code: str | None
    subscription_id: str | None
    plan_code: str | None
    references: tuple[ProvidersReference, ...]
    processed_time: datetime | None
    receipt_url: str
    description: str
    metadata: Mapping[str, str] | None
    reason: str
    request: Mapping[str, object]
    """By what a repeat is told from another request."""


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


class Records:
    """Records and refunds payments."""

    def __init__(
        self,
        shards: Shards,
        references: References,
        steps: Steps,
        payments: Payments,
        products: Products,
        providers: Mapping[str, Provider],
        clock: Clock,
    ) -> None:
        self._shards = shards
        self._references = references
        self._steps = steps
        self._payments = payments
        self._products = products
        self._providers = providers
        self._clock = clock
        self._locks = KeyedLocks()

    async def record(self, new: NewRecord) -> tuple[Payment, bool]:
        """Record a payment with what it brings; return it, and whether this repeats an earlier request.

        Raises:
            OperationIdReused: the operation has recorded something else.
            PaymentReferenceTaken: a reference belongs to another payment.
            NotFound, AccountClosed, TooManyGrants, BalanceOutOfRange: as their names say; nothing is recorded.
        """
        async with self._locks.hold((new.organization_id, new.operation_id)):
            known = await self._known(new)
            if known is not None:
                return known, True
            credits_ = new.credits
            if new.product_code is not None and new.brings is Brings.CREDITS:
                credits_ = (await self._products.sold(new.product_code)).what_it_brings()
            claim = await self._claim(new)
            payment = _recorded(new, credits_, claim, self._clock.now())
            try:
                return await self._steps.store(payment, _audit), False
            except (errors.PaymentChanged, ConstraintViolation):
                # Another process has recorded it meanwhile.
                known = await self._known(new)
                if known is None:
                    raise
                if known.payment_id != claim.payment_id:
                    await self._references.release(claim)
                return known, True
            except Refusal as refusal:
                if refusal.kind not in _UNKNOWN_END:
                    await self._references.release(claim)
                raise

    async def _known(self, new: NewRecord) -> Payment | None:
        async with self._shards.of(new.organization_id).raw_connection() as connection:
            known = await store.find_by_operation(connection, new.organization_id, new.operation_id)
        if known is not None:
            field = differing(known.request or {}, new.request)
            if field is not None:
                raise OperationIdReused(operation_id=new.operation_id, field=field)
        return known

    async def _claim(self, new: NewRecord) -> Claim:
        """Claim the references of a new payment, and return the claim.

        Where an earlier attempt has claimed one and died, the payment gets the id of that attempt.
        """
        wanted = {one for one in new.references if one.reference.kind is not ReferenceKind.CUSTOMER}
        claims = await self._references.find(wanted)
        claim = Claim(new.organization_id, new_id())
        for reference, earlier in claims.items():
            if not reference.reference.kind.names_one_payment and earlier.organization_id == new.organization_id:
                wanted.discard(reference)
            elif earlier.organization_id != new.organization_id or await self._exists(earlier):
                raise _taken(reference)
            else:
                claim = earlier
        others = await self._references.claim(wanted, claim, self._clock.now())
        if others:
            await self._references.release(claim)
            raise _taken(next(iter(others)))
        return claim

    async def _exists(self, claim: Claim) -> bool:
        async with self._shards.of(claim.organization_id).raw_connection() as connection:
            return await store.find(connection, claim.organization_id, claim.payment_id) is not None

    async def refund(self, asked: NewRefundRequest) -> tuple[str, bool]:
        """Refund a payment or a part of it; return the refund's id, and whether this repeats an earlier request.

        Raises:
            NotFound: the organization has no such payment.
            RequestIdReused: the request has refunded something else.
            PaymentNotRefundable, RefundExceedsPayment: as their names say.
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
        if payment.provider == MANUAL:
            return await self._refund_by_hand(payment, asked), False
        provider = self._providers.get(payment.provider)
        if provider is None:
            raise errors.PaymentProviderUnknown(provider=payment.provider)
        if refund is None:
            refund = await self._request(asked)
        await self._ask(provider, payment, refund)
        return refund.refund_id, False

    async def _requested(self, asked: NewRefundRequest) -> tuple[Payment, Refund | None]:
        """Return the payment, and the refund of an earlier request with this id."""
        async with self._shards.of(asked.organization_id).raw_connection() as connection:
            payment = await store.find(connection, asked.organization_id, asked.payment_id)
            known = await store.find_refund(connection, asked.organization_id, asked.request_id)
        if known is not None:
            payment_id, refund = known
            before = (payment_id, refund.requested_amount, refund.reason)
            now = (asked.payment_id, asked.amount, asked.reason)
            for field, old, new in zip(("payment_id", "amount", "reason"), before, now, strict=True):
                if old != new:
                    raise RequestIdReused(request_id=asked.request_id, field=field)
        if payment is None:
            raise NotFound(resource_type="payment", resource_name=asked.payment_id)
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
            await store.add_refund(connection, done.organization_id, done.payment_id, refund)
            await _audit_refund(connection, done, refund)

        try:
            await self._steps.store(changed, extra)
        except ConstraintViolation:
            raise errors.PaymentChanged(payment_id=payment.payment_id) from None
        return refund.refund_id

    async def _request(self, asked: NewRefundRequest) -> Refund:
        """Store that a provider is going to be asked for a refund, so that no other refund takes the same money."""
        now = self._clock.now()
        try:
            async with self._shards.of(asked.organization_id).raw_transaction() as connection:
                payment = await store.lock(connection, asked.organization_id, asked.payment_id)
                assert payment is not None, "payments are never deleted"
                refunds = await store.find_refunds(connection, asked.organization_id, asked.payment_id)
                refund = new_refund(payment, refunds, asked, RefundState.REQUESTED, now)
                await store.add_refund(connection, asked.organization_id, asked.payment_id, refund)
                await _audit_refund(connection, payment, refund)
        except ConstraintViolation:
            raise errors.PaymentChanged(payment_id=asked.payment_id) from None
        return refund

    async def _ask(self, provider: Provider, payment: Payment, refund: Refund) -> None:
        """Ask a provider for a refund, and apply what it says. It refunds once however often it is asked."""
        references = (await self._references.of_payments(payment.organization_id, [payment.payment_id])).values()
        named = tuple(one.reference for found in references for one in found if one.provider == payment.provider)
        new = NewRefund(refund.refund_id, named, refund.amount, payment.currency_code, refund.reason)
        try:
            fact = await provider.refund(new)
        except ProviderDeclined as error:
            await self._end(payment, refund, RefundState.FAILED, str(error)[:500])
            raise errors.PaymentProviderDeclined(provider=payment.provider, provider_message=str(error)) from error
        except ProviderMisconfigured as error:
            raise errors.PaymentProviderMisconfigured(provider=payment.provider) from error
        except ProviderCannot as error:
            await self._end(payment, refund, RefundState.FAILED, str(error)[:500])
            raise errors.PaymentProviderCannot(provider=payment.provider, what="refund payments") from error
        except ProviderDown as error:
            raise Unavailable(dependency=payment.provider) from error
        await self._payments.apply(fact)
        await self._end(payment, refund, RefundState.COMPLETED, "")

    async def _end(self, payment: Payment, refund: Refund, state: RefundState, failure: str) -> None:
        async with self._shards.of(payment.organization_id).raw_connection() as connection:
            await store.end_refund(
                connection,
                payment.organization_id,
                payment.payment_id,
                refund.refund_id,
                state,
                failure,
                self._clock.now(),
            )


def differing(known: Mapping[str, object], asked: Mapping[str, object]) -> str | None:
    """Return the first field in which a request differs from the one that is known; None for a repeat."""
    return next((name for name in (*asked, *known) if asked.get(name) != known.get(name)), None)


def new_refund(
    payment: Payment, refunds: tuple[Refund, ...], asked: NewRefundRequest, state: RefundState, now: datetime
) -> Refund:
    """Return the refund that is asked for.

    Raises:
        InvalidArgument: it is in another currency.
        PaymentNotRefundable: the payment is not paid, or is disputed.
        RefundExceedsPayment: less is left.
    """
    if payment.base is not FactStatus.COMPLETED or payment.disputed:
        raise errors.PaymentNotRefundable(status=payment.status.value)
    if asked.currency_code not in (None, payment.currency_code):
        raise InvalidArgument([FieldViolation("amount.currency_code", f"must be {payment.currency_code}")])
    left = refundable(payment, refunds)
    amount = left if asked.amount is None else asked.amount
    if amount > left or amount <= ZERO:
        raise errors.RefundExceedsPayment(remaining=left, currency_code=payment.currency_code)
    ended = None if state is RefundState.REQUESTED else now
    return Refund(
        new_id(), asked.request_id, asked.amount, amount, state, asked.reason, current_actor(), now, complete_time=ended
    )


def _recorded(new: NewRecord, credits_: Credits | None, claim: Claim, now: datetime) -> Payment:
    version = Version(now)
    said = {
        Field.STATUS: Saying(version, FactStatus.COMPLETED.value),
        Field.METHOD: Saying(version, new.method.value),
        Field.PROCESSED: Saying(version, (new.processed_time or now).isoformat()),
    }
    if new.receipt_url:
        said[Field.RECEIPT] = Saying(version, new.receipt_url)
    named = {one.reference.kind: str(one) for one in new.references}
    return Payment(
        organization_id=new.organization_id,
        payment_id=claim.payment_id,
        type=new.type,
        provider=MANUAL,
        amount=new.amount,
        currency_code=new.currency_code,
        brings=new.brings,
        credits=credits_,
        is_test=False,
        actor=current_actor(),
        create_time=now,
        update_time=now,
        said=said,
        user_id=new.user_id,
        product_code=new.product_code,
        plan_code=new.plan_code,
        subscription_id=new.subscription_id,
        external_subscription_id=named.get(ReferenceKind.SUBSCRIPTION),
        external_customer_id=named.get(ReferenceKind.CUSTOMER),
        operation_id=new.operation_id,
        request=new.request,
        description=new.description,
        metadata=new.metadata,
        reason=new.reason,
    )


def _taken(reference: ProvidersReference) -> errors.PaymentReferenceTaken:
    return errors.PaymentReferenceTaken(
        provider=reference.provider,
        kind=reference.reference.kind.value,
        external_id=reference.reference.external_id,
    )


async def _audit(connection: RawConnection, payment: Payment) -> None:
    amount = f"{payment.amount.normalize():f} {payment.currency_code}"
    await record_event(
        connection,
        now=payment.update_time,
        organization_id=payment.organization_id,
        resource_type="payment",
        resource_id=payment.payment_id,
        changed=(
            Changed("type", None, payment.type.value),
            Changed("amount", None, amount),
            Changed("brings", None, payment.brings.value),
            Changed("reason", None, payment.reason),
        ),
    )


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
