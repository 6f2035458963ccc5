"""Payments and products as messages."""

from libs.common.amount import render_amount
from libs.common.timestamps import render_optional_time, render_time
from services.billing.payment.domain import Payment, Refund, undelivered
from services.billing.payment.listings import Shown
from services.billing.payment.product_domain import Product
from services.billing.payment.references import ProvidersReference
from services.billing.payment.top_up_domain import TopUpPolicy
from services.billing.plan.rendering import render_reference
from tollhouse.billing.v1 import payment_pb2 as pb


def render_product(product: Product) -> pb.Product:
    """Return a product as a message."""
    return pb.Product(
        product_id=product.product_id,
        product_code=product.product_code,
        name=product.name,
        description=product.description,
        price=render_amount(product.price.currency_code, product.price.value),
        credits=render_amount(product.credits.currency_code, product.credits.value),
        expire_after_days=product.expire_after_days,
        priority=product.priority,
        active=product.active,
        sort_order=product.sort_order,
        provider_references=map(render_reference, product.provider_references),
        archive_time=render_optional_time(product.archive_time),
        create_time=render_time(product.create_time),
        update_time=render_time(product.update_time),
        etag=product.etag,
    )


def render_payment(shown: Shown) -> pb.Payment:
    """Return a payment as a message, with its references and refunds."""
    p = shown.payment
    unit = None if p.credits is None else p.credits.currency_code
    return pb.Payment(
        payment_id=p.payment_id,
        organization_id=p.organization_id,
        user_id=p.user_id or "",
        type=pb.PaymentType.Value(f"PAYMENT_TYPE_{p.type}"),
        status=pb.PaymentStatus.Value(f"PAYMENT_STATUS_{p.status}"),
        amount=render_amount(p.currency_code, p.amount),
        method=pb.PaymentMethod.Value(f"PAYMENT_METHOD_{p.method or 'UNSPECIFIED'}"),
        provider=p.provider,
        references=map(_reference, shown.references),
        subscription_id=p.subscription_id or "",
        plan_code=p.plan_code or "",
        product_code=p.product_code or "",
        awarded_credits=None if p.credits is None else render_amount(p.credits.currency_code, p.credits.amount),
        awarded=p.awarded,
        grant_id=p.grant_id or "",
        refunded_amount=render_amount(p.currency_code, p.refunded_amount),
        refunds=[render_refund(p, one) for one in shown.refunds],
        taken_back_amount=None if unit is None else render_amount(unit, p.taken_credits + p.taken_money),
        written_off_amount=None if unit is None else render_amount(unit, p.written_off),
        description=p.description,
        metadata=p.metadata or {},
        test=p.is_test,
        checkout_url=p.checkout_url or "",
        checkout_expire_time=render_optional_time(p.checkout_expire_time),
        receipt_url=p.receipt_url,
        failure=p.failure,
        reason=p.reason,
        actor=p.actor,
        processed_time=render_optional_time(p.processed_time),
        create_time=render_time(p.create_time),
        update_time=render_time(p.update_time),
        undelivered_amount=None if unit is None else render_amount(unit, undelivered(p)),
    )


def render_policy(policy: TopUpPolicy) -> pb.TopUpPolicy:
    """Return a policy of top-ups as a message."""
    unit, amount, target = policy.currency_code, policy.top_up_amount, policy.target_balance
    return pb.TopUpPolicy(
        organization_id=policy.organization_id,
        enabled=policy.enabled,
        threshold=render_amount(unit, policy.threshold),
        top_up_amount=None if amount is None else render_amount(unit, amount),
        target_balance=None if target is None else render_amount(unit, target),
        provider=policy.provider,
        max_per_day=policy.max_per_day,
        max_per_month=policy.max_per_month,
        pending_payment_id=policy.pending_payment_id or "",
        paused_reason=policy.paused_reason,
        update_time=render_time(policy.update_time),
    )


def render_refund(payment: Payment, refund: Refund) -> pb.Refund:
    """Return a refund of a payment as a message."""
    return pb.Refund(
        refund_id=refund.refund_id,
        amount=render_amount(payment.currency_code, refund.amount),
        state=pb.RefundState.Value(f"REFUND_STATE_{refund.state}"),
        reason=refund.reason,
        actor=refund.actor,
        failure=refund.failure,
        create_time=render_time(refund.create_time),
        complete_time=render_optional_time(refund.complete_time),
    )


def _reference(one: ProvidersReference) -> pb.PaymentReference:
    return pb.PaymentReference(
        provider=one.provider,
        kind=pb.ReferenceKind.Value(f"REFERENCE_KIND_{one.reference.kind}"),
        external_id=one.reference.external_id,
    )
