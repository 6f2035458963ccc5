"""What payments and the providers of payments say to each other.

A provider's folder turns the provider's own objects into the facts below. Payments apply the facts, in any order and
any number of times. Nothing else of a provider is known outside its folder.

A fact says what one object of the provider said at one moment. A field that the object does not say is None.
Amounts are cumulative: `refunded_amount` is the sum of all refunds so far.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final, Protocol, TypeAlias

MANUAL: Final = "manual"
"""The provider of payments that operators record: bank transfers, and history taken over."""


class ReferenceKind(StrEnum):
    """What kind of object a provider's id names."""

    ORDER = "ORDER"
    CHECKOUT = "CHECKOUT"
    PAYMENT = "PAYMENT"
    """Stripe's payment intent; Lemon Squeezy's subscription invoice."""
    CHARGE = "CHARGE"
    INVOICE = "INVOICE"
    REFUND = "REFUND"
    DISPUTE = "DISPUTE"
    SUBSCRIPTION = "SUBSCRIPTION"
    CUSTOMER = "CUSTOMER"

    @property
    def names_one_payment(self) -> bool:
        """Whether the object belongs to one payment. A subscription and a customer have many."""
        return self not in {ReferenceKind.SUBSCRIPTION, ReferenceKind.CUSTOMER}


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """The provider's own id of an object: 1 to 255 visible ASCII characters."""

    kind: ReferenceKind
    external_id: str


class FactStatus(StrEnum):
    """What became of the payment, without refunds and disputes. COMPLETED is final; a failed payment can complete."""

    PENDING = "PENDING"
    FAILED = "FAILED"
    COMPLETED = "COMPLETED"


class Occasion(StrEnum):
    """Why the payment was made."""

    ONE_OFF = "ONE_OFF"
    """One order: a credit pack or a top-up. There is one payment for the checkout."""
    FIRST = "FIRST"
    """The first payment of a subscription. It is the same payment as the checkout's, whatever objects tell of it."""
    RENEWAL = "RENEWAL"
    """A later payment of a subscription. There is one payment for each PAYMENT, INVOICE or ORDER reference."""


class Method(StrEnum):
    """How the payer paid."""

    CARD = "CARD"
    PAYPAL = "PAYPAL"
    BANK_TRANSFER = "BANK_TRANSFER"
    WALLET = "WALLET"
    MANUAL = "MANUAL"
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """How new an object is: the newer of two is applied.

    `time` is the object's own update time, or else the time of the event. `number` orders versions of the same time
    where the provider numbers them, and is 0 otherwise. Of two facts with equal versions the one that says more has
    happened counts: the larger sum of refunds, completed before failed before pending, a dispute that is over.
    """

    time: datetime
    number: int = 0


@dataclass(frozen=True, slots=True)
class FailedRefund:
    """A refund that failed after it was made; the REFUND reference says which one."""

    amount: Decimal
    make_time: datetime
    refund_id: str | None
    """Ours, where it was asked for here."""


@dataclass(frozen=True, slots=True)
class PaymentFact:
    """What an object of the provider says of one payment."""

    provider: str
    references: tuple[Reference, ...]
    """All that the object names. Those that name one payment find it; at least one of any kind, or a `checkout_id`."""
    version: Version
    occasion: Occasion
    is_test: bool
    store: str
    """The provider's account or store that the object belongs to; empty where the provider has only one."""
    checkout_id: str | None = None
    """Our checkout, from the data that the provider carries for us. It only finds our checkout."""
    status: FactStatus | None = None
    """None where the object says nothing of it, as a dispute does."""
    amount: Decimal | None = None
    """What was to be paid in all, before taxes that the provider adds; positive. A payment needs it once."""
    gross_unit: Decimal | None = None
    """Given where `amount` and `refunded_amount` are with the taxes, which the object does not tell apart: to what they
    are rounded without them, such as a cent. Disputes and failed refunds of such a payment are with the taxes, too."""
    currency_code: str | None = None
    refunded_amount: Decimal | None = None
    """The sum of all refunds so far, in the same unit as `amount`, and like it without taxes."""
    failed_refund: FailedRefund | None = None
    """It is no part any more of a sum of refunds that was said after it was made and before this."""
    disputed: bool | None = None
    """True while a dispute is open and after it is lost; False once it is won. None from other objects.

    The DISPUTE reference says of which one. Without one it is of all disputes together.
    """
    disputed_amount: Decimal | None = None
    """What that dispute is over, with its currency in `disputed_currency_code`; None for all of the payment. It may be
    more than the payment, and in another currency, in which it is over all of it."""
    disputed_currency_code: str | None = None
    method: Method | None = None
    receipt_url: str | None = None
    processed_time: datetime | None = None
    """When the money was taken, or the attempt failed."""
    product_external_id: str | None = None
    """What the provider calls what was sold (a price or a variant); compared with the catalogue's where it is given."""
    failure: str | None = None
    """Why it failed, in the provider's words; cut to 500 characters."""


class ExternalSubscriptionStatus(StrEnum):
    """What a subscription that the provider renews is, in our words."""

    ACTIVE = "ACTIVE"
    PAST_DUE = "PAST_DUE"
    PAUSED = "PAUSED"
    CANCELLED = "CANCELLED"
    """It will not renew; it holds until `ends_time`."""
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True)
class SubscriptionFact:
    """What the provider says of a subscription that it renews."""

    provider: str
    external_id: str
    version: Version
    status: ExternalSubscriptionStatus
    is_test: bool
    store: str
    checkout_id: str | None = None
    customer: str | None = None
    """The provider's id of the customer."""
    plan_external_id: str | None = None
    """What the provider calls the plan (a price or a variant)."""
    renews_time: datetime | None = None
    ends_time: datetime | None = None


Fact: TypeAlias = PaymentFact | SubscriptionFact


class Result(StrEnum):
    """What became of a fact."""

    APPLIED = "APPLIED"
    REPEATED = "REPEATED"
    """It says what is known. Nothing was changed."""
    LATE = "LATE"
    """A newer version is known. Nothing was changed."""
    PARKED = "PARKED"
    """Its payment, checkout or subscription is not known yet. Keep the fact and apply it again later."""
    REFUSED = "REFUSED"
    """It contradicts our catalogue or what is known. Applying it again does not help."""


class RefusedFor(StrEnum):
    """Why a fact was refused."""

    WRONG_CURRENCY = "WRONG_CURRENCY"
    WRONG_AMOUNT = "WRONG_AMOUNT"
    WRONG_PRODUCT = "WRONG_PRODUCT"
    WRONG_PROVIDER = "WRONG_PROVIDER"
    """The checkout was made with another provider."""
    WRONG_MODE = "WRONG_MODE"
    """A test object for a live checkout, or the other way round."""
    ANOTHER_ORGANIZATION = "ANOTHER_ORGANIZATION"
    """Its references belong to different organizations."""
    ANOTHER_PAYMENT = "ANOTHER_PAYMENT"
    """Its references belong to different payments."""
    ACCOUNT_CLOSED = "ACCOUNT_CLOSED"
    INVALID = "INVALID"
    """An amount, an id or a sum that cannot be: a refund above the payment, an id of 10,000 characters."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What `Payments.apply` did with a fact."""

    result: Result
    reason: RefusedFor | None = None
    """For REFUSED."""
    organization_id: str | None = None
    """None where it is not known: for PARKED, and some of REFUSED."""
    payment_id: str | None = None
    detail: str = ""
    """One sentence on what was missing or wrong, without values of the fact."""


class FactApplier(Protocol):
    """What `services.billing.payment.payments.Payments` is to those who bring facts."""

    async def apply(self, fact: Fact) -> Applied:
        """Apply a fact; a repeat, or an older fact after a newer one, changes nothing.

        Raises:
            Overloaded, Unavailable: nothing was applied. Apply it again.
        """


@dataclass(frozen=True, slots=True)
class Event:
    """What a webhook brings: an id that names it for ever, the provider's word for what happened, and facts."""

    event_id: str
    kind: str
    facts: tuple[Fact, ...]
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Ignored:
    """A webhook that says nothing of payments."""

    event_id: str
    kind: str
    reason: str


Parsed: TypeAlias = Event | Ignored


@dataclass(frozen=True, slots=True)
class NewCheckout:
    """A checkout that the provider is to open. Everything in it is from our catalogue and our stored checkout."""

    checkout_id: str
    """Carried by the provider in its data for us, and the provider's idempotency key."""
    organization_id: str
    user_id: str | None
    email: str | None
    name: str
    """What is sold, for the payer to read."""
    amount: Decimal
    currency_code: str
    external_product_id: str | None
    """What the provider calls what is sold; None for a top-up of any amount."""
    renews: bool
    """Whether the provider renews it: a plan."""
    success_url: str
    cancel_url: str
    expire_time: datetime
    is_test: bool


@dataclass(frozen=True, slots=True)
class OpenedCheckout:
    """A checkout at the provider."""

    url: str
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class NewRefund:
    """A refund that the provider is to make."""

    refund_id: str
    """The provider's idempotency key."""
    references: tuple[Reference, ...]
    """All references of the payment."""
    amount: Decimal
    """Without the taxes that the provider added; it refunds those as well. The amounts below are without taxes, too."""
    currency_code: str
    reason: str
    payment_amount: Decimal
    """The whole payment."""
    refunded_before: Decimal
    """What of the payment was refunded when this refund was asked for."""
    may_be_made: bool
    """Whether the provider may have been asked for it before. It is looked for then: an idempotency key is known for a
    day, and some providers have none."""


@dataclass(frozen=True, slots=True)
class NewCharge:
    """A charge of a saved method, as automatic top-ups and renewals make."""

    payment_id: str
    """Carried by the provider as `checkout_id` is, and the provider's idempotency key."""
    customer: str
    """The provider's id of the customer."""
    amount: Decimal
    currency_code: str
    description: str
    is_test: bool


class Renewal(StrEnum):
    """Whether a provider renews a subscription."""

    RENEWS = "RENEWS"
    ENDS_WITH_PERIOD = "ENDS_WITH_PERIOD"
    ENDED = "ENDED"
    """At once; a provider that cannot do that ends it with the period, and does not charge it again."""


@dataclass(frozen=True, slots=True)
class Changes:
    """A page of what changed at the provider."""

    facts: tuple[Fact, ...]


class Provider(Protocol):
    """A provider of payments."""

    @property
    def name(self) -> str:
        """What payments and references call it: `lemon_squeezy`, `stripe`."""

    @property
    def charges_saved_methods(self) -> bool:
        """Whether `charge_saved` does anything."""

    def smallest(self, currency_code: str) -> Decimal:
        """Return the smallest amount that it can charge more or less in a currency, such as a cent or a yen.

        It is 1, or a power of ten below it.
        """

    def verify(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: datetime) -> None:
        """Check the signature of a webhook over its raw bytes, in constant time. Header names are in lower case.

        Raises:
            SignatureRefused: it is missing, wrong or too old.
        """

    def parse(self, body: bytes) -> Parsed:
        """Read a webhook whose signature is good.

        Raises:
            Unreadable: it is not what the provider documents.
        """

    async def create_checkout(self, checkout: NewCheckout) -> OpenedCheckout:
        """Open a checkout; the same `checkout_id` again returns the same one.

        Raises:
            ProviderError: see its classes.
        """

    async def portal_url(self, customer: str) -> str:
        """Return the page on which the customer changes cards, sees receipts and ends subscriptions.

        Raises:
            ProviderError: see its classes.
        """

    async def refund(self, refund: NewRefund) -> PaymentFact:
        """Refund a payment or a part of it, once per `refund_id`; return what the payment is afterwards.

        Raises:
            ProviderError: see its classes.
        """

    async def charge_saved(self, charge: NewCharge) -> PaymentFact:
        """Charge the customer's saved method, once per `payment_id`; return what became of it.

        Raises:
            ProviderError: see its classes.
        """

    async def set_renewal(self, external_id: str, renewal: Renewal) -> None:
        """Say whether a subscription is renewed; it is so already where this is a repeat.

        Raises:
            ProviderError: see its classes.
        """

    def changed_since(self, since: datetime) -> AsyncIterator[Changes]:
        """Yield what changed since, in pages, oldest first.

        Raises:
            ProviderError: see its classes.
        """


class SignatureRefused(Exception):
    """The signature of a webhook is missing, wrong or too old."""


class Unreadable(Exception):
    """The body of a webhook is not what the provider documents."""


class ProviderError(Exception):
    """The provider did not do what it was asked for. The text holds no secret and nothing of the payer."""


class ProviderDeclined(ProviderError):
    """The provider refuses this request for good: a card is declined, a refund is above what is left."""


class ProviderDown(ProviderError):
    """The provider cannot be reached, is overloaded or failed. The same request may be made again."""


class ProviderMisconfigured(ProviderError):
    """The provider refuses our key, our store or what we name there. An operator must change the configuration."""


class ProviderCannot(ProviderError):
    """The provider has no such function: `manual` opens no checkout, for instance."""
