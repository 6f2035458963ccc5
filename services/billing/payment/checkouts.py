"""Opens checkouts at providers. Each is stored as a payment that waits to be paid, before its provider is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Final, Protocol

from libs.common.audit.recording import Changed, record_event
from libs.common.call import current_actor, is_limited
from libs.common.clock import Clock
from libs.common.database import ConstraintViolation, Database, RawConnection
from libs.common.errors import RequestIdReused
from libs.common.ids import new_id
from libs.common.shards import Shards
from services.billing import deleted_organizations
from services.billing import payment_errors as errors
from services.billing.clients.subjects import Subjects
from services.billing.payment import store
from services.billing.payment.asking import as_refusals, find_provider
from services.billing.payment.domain import Brings, Credits, Payment, PaymentType, without_address
from services.billing.payment.locks import KeyedLocks
from services.billing.payment.products import Products
from services.billing.payment.provider import NewCheckout, Provider
from services.billing.payment.records import differing
from services.billing.payment.references import Claim, ProvidersReference, References, of_checkout
from services.billing.payment.steps import Steps
from services.billing.plan import store as plan_store
from services.billing.plan.domain import Money, Plan
from services.billing.plan.plans import require_subscribable

_OPEN_FOR: Final = timedelta(hours=24)
_WHAT: Final = "open a checkout"


@dataclass(frozen=True, slots=True)
class NewPurchase:
    """What is to be bought: exactly one of a product, a plan and a top-up."""

    organization_id: str
    request_id: str
    provider: str
    """Empty for the only one that is set up."""
    user_id: str | None
    email: str | None
    product_code: str
    plan_code: str
    top_up: Money | None
    success_url: str
    cancel_url: str
    subscriber_user_id: str | None
    """For whom a plan is bought; None for the organization."""
    description: str
    metadata: Mapping[str, str] | None
    request: Mapping[str, object]
    """By what a repeat is told from another request."""


@dataclass(frozen=True, slots=True)
class _Bought:
    """What the catalogue says of what is bought."""

    type: PaymentType
    name: str
    price: Money
    brings: Brings
    credits: Credits
    external_id: str | None
    """What the provider calls it; None for a top-up."""
    plan: tuple[str, int] | None = None
    """The plan's id and version."""


class Sales(Protocol):
    """Knows who may buy which plan."""

    async def require(self, organization_id: str, user_id: str | None, plan: Plan) -> None:
        """Check that a plan can be bought for an organization, or for a user in it.

        Raises:
            NotForSelfService, RenewedByProvider, SamePlan: it cannot.
        """


class Checkouts:
    """Opens checkouts."""

    def __init__(
        self,
        shards: Shards,
        platform: Database,
        references: References,
        steps: Steps,
        products: Products,
        providers: Mapping[str, Provider],
        clock: Clock,
        subjects: Subjects,
        sales: Sales,
        *,
        is_test: bool,
    ) -> None:
        """`is_test` says whether payments are made in the providers' test modes."""
        self._subjects = subjects
        self._sales = sales
        self._shards = shards
        self._platform = platform
        self._references = references
        self._steps = steps
        self._products = products
        self._providers = providers
        self._clock = clock
        self._is_test = is_test
        self._locks = KeyedLocks()

    async def open(self, new: NewPurchase) -> tuple[Payment, bool]:
        """Open a checkout; return its payment, and whether this repeats an earlier request.

        Raises:
            RequestIdReused: the request has bought something else.
            NotFound: of the product, the plan or the subscriber, or of an organization that was deleted.
            ProductArchived, PlanArchived, PlanNotPublished, NotOffered, NotSoldThere, NothingToPay,
            NotForSelfService, RenewedByProvider, SamePlan: the plan cannot be bought by, or for, them.
            AccountClosed: the account that the payment is for is closed.
            PaymentProviderUnknown, PaymentProviderCannot, PaymentProviderDeclined, PaymentProviderMisconfigured: see
            each.
            Unavailable: the provider cannot be reached. Repeat it: the checkout is stored.
        """
        async with self._locks.hold((new.organization_id, new.request_id)):
            payment = await self._known(new)
            if payment is not None and payment.checkout_url:
                return payment, True
            named = new.provider if payment is None else payment.provider
            name, provider = find_provider(self._providers, named, _WHAT)
            if payment is None:
                async with self._shards.of(new.organization_id).raw_transaction() as connection:
                    await deleted_organizations.require_not_deleted(connection, new.organization_id)
                if new.subscriber_user_id is not None:
                    await self._subjects.require(new.organization_id, new.subscriber_user_id, None)
                bought = await self._bought(new, name)
                await self._steps.require_open(new.organization_id, bought.credits.currency_code)
                payment = await self._stored(new, name, bought)
            return await self._opened(new, payment, provider), False

    async def _known(self, new: NewPurchase) -> Payment | None:
        async with self._shards.of(new.organization_id).raw_connection() as connection:
            known = await store.find_by_operation(connection, new.organization_id, new.request_id)
        if known is not None:
            # A version before this one has kept the address itself.
            field = differing(without_address(known.request or {}), new.request)
            if field is not None:
                raise RequestIdReused(request_id=new.request_id, field=field)
        return known

    async def _bought(self, new: NewPurchase, provider: str) -> _Bought:
        if new.top_up is not None:
            money = Credits(new.top_up.currency_code, new.top_up.value)
            return _Bought(PaymentType.TOP_UP, "Top-up", new.top_up, Brings.MONEY, money, None)
        if new.product_code:
            product = await self._products.sold(new.product_code)
            if is_limited() and not product.is_offered:
                raise errors.NotOffered(what=f"The product {new.product_code}")
            external_id = product.sold_as(provider)
            if external_id is None:
                raise errors.NotSoldThere(what=f"The product {new.product_code}", provider=provider)
            brought = product.what_it_brings()
            return _Bought(PaymentType.CREDIT_PACK, product.name, product.price, Brings.CREDITS, brought, external_id)
        return await self._plan(new, provider)

    async def _plan(self, new: NewPurchase, provider: str) -> _Bought:
        plan_code = new.plan_code
        async with self._platform.transaction() as connection:
            plan = require_subscribable(await plan_store.find_plan(connection, plan_code=plan_code), plan_code)
        assert plan.published is not None
        if is_limited() and not plan.is_offered:
            raise errors.NotOffered(what=f"The plan {plan_code}")
        await self._sales.require(new.organization_id, new.subscriber_user_id, plan)
        price = plan.published.terms.price
        if price.value == Decimal(0):
            raise errors.NothingToPay(plan_code=plan_code)
        sold = sorted((one.kind == "product", one) for one in plan.provider_references if one.provider == provider)
        if not sold:
            raise errors.NotSoldThere(what=f"The plan {plan_code}", provider=provider)
        money = Credits(price.currency_code, price.value)
        version = plan.plan_id, plan.published.version
        return _Bought(PaymentType.SUBSCRIPTION, plan.name, price, Brings.MONEY, money, sold[0][1].external_id, version)

    async def _stored(self, new: NewPurchase, provider: str, bought: _Bought) -> Payment:
        now = self._clock.now()
        claim = Claim(new.organization_id, new_id())
        await self._references.claim([of_checkout(claim.payment_id)], claim, now)
        payment = Payment(
            organization_id=new.organization_id,
            payment_id=claim.payment_id,
            type=bought.type,
            provider=provider,
            amount=bought.price.value,
            currency_code=bought.price.currency_code,
            brings=bought.brings,
            credits=bought.credits,
            is_test=self._is_test,
            actor=current_actor(),
            create_time=now,
            update_time=now,
            said={},
            user_id=new.user_id,
            product_code=new.product_code or None,
            plan_code=new.plan_code or None,
            plan_id=bought.plan and bought.plan[0],
            plan_version=bought.plan and bought.plan[1],
            subscriber_user_id=new.subscriber_user_id,
            external_product_id=bought.external_id,
            operation_id=new.request_id,
            request=new.request,
            checkout_expire_time=now + _OPEN_FOR,
            description=new.description or bought.name,
            metadata=new.metadata,
        )
        try:
            return await self._steps.store(payment, _audit)
        except ConstraintViolation:
            # Another process has stored the same request meanwhile.
            await self._references.release(claim)
            known = await self._known(new)
            if known is None:
                raise
            return known

    async def _opened(self, new: NewPurchase, payment: Payment, provider: Provider) -> Payment:
        """Have the provider open a checkout, once however often it is asked, and note its page."""
        assert payment.checkout_expire_time is not None
        asked = NewCheckout(
            checkout_id=payment.payment_id,
            organization_id=payment.organization_id,
            user_id=payment.user_id,
            email=new.email,
            name=payment.description,
            amount=payment.amount,
            currency_code=payment.currency_code,
            external_product_id=payment.external_product_id,
            renews=payment.type is PaymentType.SUBSCRIPTION,
            success_url=new.success_url,
            cancel_url=new.cancel_url,
            expire_time=payment.checkout_expire_time,
            is_test=payment.is_test,
        )
        with as_refusals(payment.provider, _WHAT):
            opened = await provider.create_checkout(asked)
        claim = Claim(payment.organization_id, payment.payment_id)
        named = [ProvidersReference(payment.provider, one) for one in opened.references if one.kind.names_one_payment]
        await self._references.claim(named, claim, self._clock.now())
        return await self._note(payment, opened.url)

    async def _note(self, payment: Payment, url: str) -> Payment:
        """Store the page of a checkout. A webhook may have changed the payment meanwhile.

        Where another process has opened the checkout, too, its page stays: all callers get one page, and pay once.
        """
        while not payment.checkout_url:
            try:
                return await self._steps.store(replace(payment, checkout_url=url))
            except errors.PaymentChanged:
                async with self._shards.of(payment.organization_id).raw_connection() as connection:
                    found = await store.find(connection, payment.organization_id, payment.payment_id)
                assert found is not None, "payments are never deleted"
                payment = found
        return payment


async def _audit(connection: RawConnection, payment: Payment) -> None:
    await record_event(
        connection,
        now=payment.update_time,
        organization_id=payment.organization_id,
        resource_type="payment",
        resource_id=payment.payment_id,
        changed=(
            Changed("type", None, payment.type.value),
            Changed("amount", None, f"{payment.amount.normalize():f} {payment.currency_code}"),
            Changed("provider", None, payment.provider),
        ),
    )
