"""Records payments that no provider tells of: bank transfers, and history taken over."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from libs.common.audit.recording import Changed, record_event
from libs.common.call import current_actor
from libs.common.clock import Clock
from libs.common.database import ConstraintViolation, RawConnection
from libs.common.errors import (
    FieldViolation,
    InvalidArgument,
    Kind,
    OperationIdReused,
    Refusal,
)
from libs.common.ids import new_id
from libs.common.shards import Shards
from services.billing import payment_errors as errors
from services.billing.payment import store
from services.billing.payment.domain import Brings, Credits, Payment, PaymentType
from services.billing.payment.locks import KeyedLocks
from services.billing.payment.product_domain import Product
from services.billing.payment.products import Products
from services.billing.payment.provider import (
    MANUAL,
    FactStatus,
    Method,
    ReferenceKind,
    Version,
)
from services.billing.payment.references import Claim, ProvidersReference, References
from services.billing.payment.said import Field, Saying
from services.billing.payment.steps import Steps

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


class Records:
    """Records payments."""

    def __init__(
        self,
        shards: Shards,
        references: References,
        steps: Steps,
        products: Products,
        clock: Clock,
    ) -> None:
        self._shards = shards
        self._references = references
        self._steps = steps
        self._products = products
        self._clock = clock
        self._locks = KeyedLocks()

    async def record(self, new: NewRecord) -> tuple[Payment, bool]:
        """Record a payment with what it brings; return it, and whether this repeats an earlier request.

        Raises:
            OperationIdReused: the operation has recorded something else.
            PaymentReferenceTaken: a reference belongs to another payment.
            InvalidArgument: it is in another currency than the product's price.
            NotFound, AccountClosed, TooManyGrants, BalanceOutOfRange: as their names say; nothing is recorded.
        """
        async with self._locks.hold((new.organization_id, new.operation_id)):
            known = await self._known(new)
            if known is not None:
                return known, True
            credits_ = new.credits
            if new.product_code is not None and new.brings is Brings.CREDITS:
                credits_ = (await self._sold(new, new.product_code)).what_it_brings()
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

    async def _sold(self, new: NewRecord, product_code: str) -> Product:
        """Return the product that was paid for. Its price may be another, but not in another currency."""
        product = await self._products.sold(product_code)
        code = product.price.currency_code
        if new.currency_code != code:
            rule = f"must be {code}, the currency of the product's price"
            raise InvalidArgument([FieldViolation("amount.currency_code", rule)])
        return product

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
            raise _taken(next(iter(others)))
        return claim

    async def _exists(self, claim: Claim) -> bool:
        async with self._shards.of(claim.organization_id).raw_connection() as connection:
            return await store.find(connection, claim.organization_id, claim.payment_id) is not None


def differing(known: Mapping[str, object], asked: Mapping[str, object]) -> str | None:
    """Return the first field in which a request differs from the one that is known; None for a repeat."""
    return next((name for name in (*asked, *known) if asked.get(name) != known.get(name)), None)


def _recorded(new: NewRecord, credits_: Credits | None, claim: Claim, now: datetime) -> Payment:
    version = Version(now)
    said: dict[str, Saying] = {
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
