"""The refusals of payments and products."""

from libs.common.errors import Kind, Refusal


class PaymentChanged(Refusal):
    """Somebody else has changed the payment since it was read. It is read again and tried again by itself."""

    kind = Kind.ABORTED
    reason = "PAYMENT_CHANGED"
    template = "The payment {payment_id} is being changed by others; nothing was changed."
    remedy = "Send the same request again."


class PaymentReferenceTaken(Refusal):
    """An object of a provider belongs to one payment."""

    kind = Kind.ALREADY_EXISTS
    reason = "PAYMENT_REFERENCE_TAKEN"
    template = "The {kind} {external_id} of {provider} belongs to another payment."
    remedy = "Check the provider's id; FindPayment returns the payment that it belongs to."


class RefundExceedsPayment(Refusal):
    """Less of the payment is left than is to be refunded."""

    kind = Kind.FAILED_PRECONDITION
    reason = "REFUND_EXCEEDS_PAYMENT"
    template = "Only {remaining} {currency_code} of the payment can still be refunded."
    remedy = "Refund at most what is left."


class RefundUnderWay(Refusal):
    """A provider is asked for one refund of a payment at a time, so that it is known which refunds were made."""

    kind = Kind.FAILED_PRECONDITION
    reason = "REFUND_UNDER_WAY"
    template = "It is not known yet what became of the refund that request {request_id} asked for."
    remedy = "Repeat that request first."


class RefundNotApplied(Refusal):
    """The provider has made the refund, and billing could not take back what the payment brought."""

    kind = Kind.FAILED_PRECONDITION
    reason = "REFUND_NOT_APPLIED"
    template = "The provider {provider} has made the refund, but nothing was taken back: {detail}."
    remedy = "Mend what the message says, and repeat the request; it gives no money back again."


class PaymentNotRefundable(Refusal):
    """Only what was paid, and is not disputed, can be refunded."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PAYMENT_NOT_REFUNDABLE"
    template = "A payment that is {status} cannot be refunded."
    remedy = "Read the payment for its status; a disputed one is decided by the provider."


class PaymentProviderDeclined(Refusal):
    """The provider refuses what it was asked for, for good."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PROVIDER_DECLINED"
    template = "The provider {provider} refuses: {provider_message}."
    remedy = "Look at the payment in the provider's own pages."


class PaymentProviderUnknown(Refusal):
    """The provider is not set up in this installation."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PROVIDER_UNKNOWN"
    template = "The payment provider {provider} is not set up."
    remedy = "Name a provider that is set up, or set it up."


class PaymentProviderCannot(Refusal):
    """The provider has no such function."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PROVIDER_CANNOT"
    template = "The payment provider {provider} cannot {what}."
    remedy = "Name another provider."


class PaymentProviderMisconfigured(Refusal):
    """The provider refuses our key, or what we name there."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PROVIDER_MISCONFIGURED"
    template = "The payment provider {provider} is not set up rightly."
    remedy = "Have an operator check the provider's key, store and products."


class NotSoldThere(Refusal):
    """What is bought has no price or variant at the provider."""

    kind = Kind.FAILED_PRECONDITION
    reason = "NOT_SOLD_THERE"
    template = "{what} is not sold through {provider}."
    remedy = "Add the provider's reference to the product or the plan, or name another provider."


class NothingToPay(Refusal):
    """A free plan needs no payment."""

    kind = Kind.FAILED_PRECONDITION
    reason = "NOTHING_TO_PAY"
    template = "The plan {plan_code} is free."
    remedy = "Subscribe to the plan without a payment."


class ProductExists(Refusal):
    """A product of this code exists, perhaps archived."""

    kind = Kind.ALREADY_EXISTS
    reason = "PRODUCT_EXISTS"
    template = "The product {product_code} exists already."
    remedy = "Take another code, or change the product."


class TooManyProducts(Refusal):
    """The number of products is limited."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_PRODUCTS"
    template = "There are {products} products, archived ones included, which is the maximum."
    remedy = "Change products that exist."


class ProductArchived(Refusal):
    """An archived product is neither changed nor sold any more."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PRODUCT_ARCHIVED"
    template = "The product {product_code} is archived."
    remedy = "Use another product."


class NotOffered(Refusal):
    """What is not active can only be bought through operators and services."""

    kind = Kind.PERMISSION_DENIED
    reason = "NOT_OFFERED"
    template = "{what} is not offered."
    remedy = "Have an operator or a service of the platform open the checkout."


class NoSavedMethod(Refusal):
    """No payment of the organization names a customer of the provider, whose saved method could be charged."""

    kind = Kind.FAILED_PRECONDITION
    reason = "NO_SAVED_METHOD"
    template = "No payment of the organization names a customer of {provider}."
    remedy = "Pay once through a checkout of the provider first."


class NoCustomer(Refusal):
    """No payment, of the organization or of the user that is meant, names a customer of the provider."""

    kind = Kind.FAILED_PRECONDITION
    reason = "NO_CUSTOMER"
    template = "No payment names a customer of {provider}."
    remedy = "Pay once through a checkout of the provider first."


class PortalIsPersonal(Refusal):
    """A customer portal shows all that its customer has paid, also for other organizations."""

    kind = Kind.PERMISSION_DENIED
    reason = "PORTAL_IS_PERSONAL"
    template = "Only the user who has paid can open their customer portal."
    remedy = "Let that user call, or a service or an operator."


class ChargeNotKnown(Refusal):
    """A provider has not said what became of a charge, or cannot be reached."""

    kind = Kind.UNAVAILABLE
    reason = "CHARGE_NOT_KNOWN"
    template = "The provider {provider} has not said yet what became of the charge."
    remedy = "Wait: billing asks again by itself. Repeat the call later."
    retry_after_ms = 30_000
