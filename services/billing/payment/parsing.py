"""Requests on payments and products, read into what the use cases take."""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from libs.common.access import CallerKind
from libs.common.amount import parse_amount
from libs.common.call import current_caller
from libs.common.clock import Clock
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.pages import decode_page_token, foreign_token
from libs.common.text import lengths_of, storable
from libs.common.timestamps import parse_range, parse_time
from libs.common.update_mask import mask_violations
from services.billing.payment.checkouts import NewPurchase
from services.billing.payment.domain import Brings, Credits, PaymentStatus, PaymentType, without_address
from services.billing.payment.product_domain import FIELDS, NewProduct, Place
from services.billing.payment.provider import Method, Reference, ReferenceKind
from services.billing.payment.records import NewRecord
from services.billing.payment.references import OURS, ProvidersReference
from services.billing.payment.refunds import NewRefundRequest
from services.billing.payment.store import Filter
from services.billing.payment.top_up_domain import TopUpPolicy
from services.billing.plan.domain import PRICE_MAX, Money
from services.billing.plan.parsing import read_references
from tollhouse.billing.v1 import payment_pb2 as pb
from tollhouse.common.v1.amount_pb2 import Amount

Violations = list[FieldViolation]
_Product = pb.CreateProductRequest | pb.UpdateProductRequest

_DESCRIPTION_MAX: Final = lengths_of(pb.RecordPaymentRequest.DESCRIPTOR)["description"]
_TOP_UP_MAX: Final = Decimal(1_000_000)
_TOP_UP_DIGITS_MAX: Final = 2
_INT32: Final = range(-(2**31), 2**31)


def read_new_product(request: pb.CreateProductRequest) -> NewProduct:
    """Return the product that is to be added. Raises InvalidArgument, naming every field that cannot be so."""
    violations: Violations = []
    fields: dict[str, object] = {
        name: _PRODUCT_READERS[name](request, violations) for name in FIELDS if name != "active"
    }
    if violations:
        raise InvalidArgument(violations)
    return NewProduct(request.product_code, fields | {"active": not request.inactive})


def read_product_changes(request: pb.UpdateProductRequest) -> Mapping[str, object]:
    """Return the new values of the fields that the mask names. Raises InvalidArgument."""
    paths = set(request.update_mask.paths)
    violations = mask_violations(paths, FIELDS)
    changes: dict[str, object] = {
        name: _PRODUCT_READERS[name](request, violations) for name in FIELDS if name in paths - {"active"}
    }
    if violations:
        raise InvalidArgument(violations)
    return changes | ({"active": request.active} if "active" in paths else {})


def check_product_name(request: pb.GetProductRequest) -> None:
    """Raise InvalidArgument unless the request names its product by an id or by a code, and not by both."""
    if bool(request.product_id) == bool(request.product_code):
        raise InvalidArgument([FieldViolation("product_id", "exactly one of this and product_code is needed")])


def read_product_place(token: str, fingerprint: str) -> Place | None:
    """Return the sort_order and the code after which a page begins; None for the first page. Raises InvalidArgument."""
    if not token:
        return None
    key = decode_page_token(token, fingerprint)
    if len(key) != 2 or re.fullmatch(r"-?[0-9]{1,10}", key[0], re.ASCII) is None or int(key[0]) not in _INT32:
        raise foreign_token()
    return int(key[0]), key[1]


def _name(request: _Product, violations: Violations) -> str:
    if not request.name.strip():
        violations.append(FieldViolation("name", "must not be blank"))
    return request.name


def _price(request: _Product, violations: Violations) -> Money:
    money = _money("price", request.price, violations)
    if money.value > PRICE_MAX:
        violations.append(FieldViolation("price.value", f"must be at most {PRICE_MAX:,}"))
    return money


_PRODUCT_READERS: Final[Mapping[str, Callable[[_Product, Violations], object]]] = {
    "name": _name,
    "description": lambda request, _: request.description,
    "price": _price,
    "credits": lambda request, violations: _money("credits", request.credits, violations),
    "expire_after_days": lambda request, _: request.expire_after_days,
    "priority": lambda request, _: request.priority,
    "sort_order": lambda request, _: request.sort_order,
    "provider_references": lambda request, violations: read_references(
        "provider_references", request.provider_references, violations
    ),
}


def read_record(request: pb.RecordPaymentRequest, clock: Clock) -> NewRecord:
    """Return the payment that is to be recorded. Raises InvalidArgument, naming every field that cannot be so."""
    violations: Violations = []
    amount = _money("amount", request.amount, violations)
    brings = _brings(request)
    processed_time = expire_time = None
    if request.HasField("processed_time"):
        processed_time = parse_time("processed_time", request.processed_time, violations)
        if processed_time > clock.now():
            violations.append(FieldViolation("processed_time", "must not be in the future"))
    if request.HasField("credits_expire_time"):
        expire_time = parse_time("credits_expire_time", request.credits_expire_time, violations)
    violations += _brings_flaws(request, brings)
    credits_ = None
    if brings is Brings.MONEY:
        credits_ = Credits(amount.currency_code, amount.value)
    elif brings is Brings.CREDITS and request.HasField("credits"):
        granted = _money("credits", request.credits, violations)
        credits_ = Credits(granted.currency_code, granted.value, request.priority, 0, expire_time)
    if not request.reason.strip():
        violations.append(FieldViolation("reason", "must not be blank"))
    references = _references(request, violations)
    if violations:
        raise InvalidArgument(violations)
    return NewRecord(
        organization_id=request.organization_id.lower(),
        operation_id=request.operation_id,
        user_id=request.user_id.lower() or None,
        type=PaymentType(pb.PaymentType.Name(request.type).removeprefix("PAYMENT_TYPE_")),
        amount=amount.value,
        currency_code=amount.currency_code,
        method=_method(request.method),
        brings=brings,
        credits=credits_,
        product_code=request.product_code or None,
        subscription_id=request.subscription_id.lower() or None,
        plan_code=request.plan_code or None,
        references=references,
        processed_time=processed_time,
        receipt_url=request.receipt_url,
        description=storable(request.description, _DESCRIPTION_MAX),
        metadata=dict(request.metadata) or None,
        reason=request.reason,
        request=_fields("RecordPayment", request),
    )


def _brings(request: pb.RecordPaymentRequest) -> Brings:
    name = pb.Brings.Name(request.brings).removeprefix("BRINGS_")
    if name != "UNSPECIFIED":
        return Brings(name)
    return Brings.CREDITS if request.type == pb.PAYMENT_TYPE_CREDIT_PACK else Brings.MONEY


def _brings_flaws(request: pb.RecordPaymentRequest, brings: Brings) -> Violations:
    flaws: Violations = []
    if request.product_code and request.type != pb.PAYMENT_TYPE_CREDIT_PACK:
        flaws.append(FieldViolation("product_code", "must be empty unless type is PAYMENT_TYPE_CREDIT_PACK"))
    if brings is Brings.CREDITS and request.HasField("credits") == bool(request.product_code):
        flaws.append(FieldViolation("credits", "exactly one of this and product_code is needed with credits"))
    own_terms = request.HasField("credits_expire_time") or request.priority
    if brings is not Brings.CREDITS and (request.HasField("credits") or own_terms):
        flaws.append(FieldViolation("credits", "and their terms must be absent where the payment brings no credits"))
    if brings is Brings.CREDITS and request.product_code and own_terms:
        flaws.append(FieldViolation("product_code", "must not be given with terms of its credits"))
    return flaws


def _method(method: pb.PaymentMethod.ValueType) -> Method:
    name = pb.PaymentMethod.Name(method).removeprefix("PAYMENT_METHOD_")
    return Method.MANUAL if name == "UNSPECIFIED" else Method(name)


def _references(request: pb.RecordPaymentRequest, violations: Violations) -> tuple[ProvidersReference, ...]:
    found: list[ProvidersReference] = []
    for index, one in enumerate(request.references):
        reference = read_reference(one, f"references[{index}]", violations)
        if reference in found:
            violations.append(FieldViolation(f"references[{index}]", "is in the list already"))
        if reference is not None:
            found.append(reference)
    return tuple(found)


def read_reference(one: pb.PaymentReference, field: str, violations: Violations) -> ProvidersReference | None:
    """Return a reference; None where it cannot be one."""
    name = pb.ReferenceKind.Name(one.kind) if one.kind in pb.ReferenceKind.values() else ""
    kind = name.removeprefix("REFERENCE_KIND_")
    if kind not in ReferenceKind.__members__:
        return None
    if one.provider == OURS:
        violations.append(FieldViolation(f"{field}.provider", f"must not be {OURS}"))
    return ProvidersReference(one.provider, Reference(ReferenceKind(kind), one.external_id))


def read_wanted_reference(request: pb.FindPaymentRequest) -> ProvidersReference:
    """Return the reference that is looked for. Raises InvalidArgument."""
    violations: Violations = []
    reference = read_reference(request.reference, "reference", violations)
    if reference is None or reference.reference.kind is ReferenceKind.CUSTOMER:
        violations.append(FieldViolation("reference.kind", "must be a kind that belongs to one payment"))
    if violations or reference is None:
        raise InvalidArgument(violations)
    return reference


def read_filter(request: pb.ListPaymentsRequest) -> tuple[Filter, ProvidersReference | None]:
    """Return which payments are wanted. Raises InvalidArgument."""
    violations: Violations = []
    reference = None
    if request.HasField("reference"):
        reference = read_reference(request.reference, "reference", violations)
    start_time, end_time = parse_range(request)
    if violations:
        raise InvalidArgument(violations)
    status = pb.PaymentStatus.Name(request.status).removeprefix("PAYMENT_STATUS_")
    type_ = pb.PaymentType.Name(request.type).removeprefix("PAYMENT_TYPE_")
    wanted = Filter(
        user_id=request.user_id.lower() or None,
        subscription_id=request.subscription_id.lower() or None,
        status=None if status == "UNSPECIFIED" else PaymentStatus(status),
        type=None if type_ == "UNSPECIFIED" else PaymentType(type_),
        start_time=start_time,
        end_time=end_time,
    )
    return wanted, reference


def read_refund(request: pb.RefundPaymentRequest) -> NewRefundRequest:
    """Return the refund that is asked for. Raises InvalidArgument."""
    violations: Violations = []
    money = _money("amount", request.amount, violations) if request.HasField("amount") else None
    if not request.reason.strip():
        violations.append(FieldViolation("reason", "must not be blank"))
    if violations:
        raise InvalidArgument(violations)
    return NewRefundRequest(
        organization_id=request.organization_id.lower(),
        payment_id=request.payment_id.lower(),
        request_id=request.request_id,
        amount=None if money is None else money.value,
        currency_code=None if money is None else money.currency_code,
        reason=request.reason,
    )


def read_purchase(request: pb.CreateCheckoutRequest) -> NewPurchase:
    """Return what is to be bought. Raises InvalidArgument, naming every field that cannot be so."""
    violations: Violations = []
    top_up = None
    if request.HasField("top_up_amount"):
        top_up = _money("top_up_amount", request.top_up_amount, violations)
        if top_up.value > _TOP_UP_MAX or top_up.value != round(top_up.value, _TOP_UP_DIGITS_MAX):
            rule = f"must be at most {_TOP_UP_MAX:,} with at most {_TOP_UP_DIGITS_MAX} fraction digits"
            violations.append(FieldViolation("top_up_amount.value", rule))
    if sum(map(bool, (request.product_code, request.plan_code, top_up is not None))) != 1:
        rule = "exactly one of this, plan_code and top_up_amount is needed"
        violations.append(FieldViolation("product_code", rule))
    if request.subscriber_user_id and not request.plan_code:
        violations.append(FieldViolation("subscriber_user_id", "must be empty without a plan_code"))
    if violations:
        raise InvalidArgument(violations)
    return NewPurchase(
        organization_id=request.organization_id.lower(),
        request_id=request.request_id,
        provider=request.provider,
        user_id=request.user_id.lower() or _calling_user(),
        email=request.email or None,
        product_code=request.product_code,
        plan_code=request.plan_code,
        top_up=top_up,
        subscriber_user_id=request.subscriber_user_id.lower() or None,
        success_url=request.success_url,
        cancel_url=request.cancel_url,
        description=request.description,
        metadata=dict(request.metadata) or None,
        request=without_address(_fields("CreateCheckout", request)),
    )


def read_policy(request: pb.SetTopUpPolicyRequest, clock: Clock) -> TopUpPolicy:
    """Return the policy that is to be set. Raises InvalidArgument, naming every field that cannot be so."""
    violations: Violations = []
    threshold = Money(
        request.threshold.currency_code,
        parse_amount("threshold", request.threshold, violations, minimum=Decimal(0)).copy_abs(),
    )
    found: dict[str, Decimal | None] = {}
    for field in ("top_up_amount", "target_balance"):
        amount: Amount = getattr(request, field)
        money = _money(field, amount, violations) if request.HasField(field) else None
        if money is not None and money.currency_code != threshold.currency_code:
            violations.append(FieldViolation(f"{field}.currency_code", "must be that of the threshold"))
        if money is not None and (money.value > _TOP_UP_MAX or money.value != round(money.value, _TOP_UP_DIGITS_MAX)):
            rule = f"must be at most {_TOP_UP_MAX:,} with at most {_TOP_UP_DIGITS_MAX} fraction digits"
            violations.append(FieldViolation(f"{field}.value", rule))
        found[field] = None if money is None else money.value
    target = found["target_balance"]
    if (found["top_up_amount"] is None) == (target is None):
        violations.append(FieldViolation("top_up_amount", "exactly one of this and target_balance is needed"))
    if target is not None and target <= threshold.value:
        violations.append(FieldViolation("target_balance.value", "must be above the threshold"))
    if violations:
        raise InvalidArgument(violations)
    return TopUpPolicy(
        organization_id=request.organization_id.lower(),
        enabled=request.enabled,
        currency_code=threshold.currency_code,
        threshold=threshold.value,
        top_up_amount=found["top_up_amount"],
        target_balance=target,
        provider=request.provider,
        external_customer_id="",
        max_per_day=request.max_per_day or 1,
        max_per_month=request.max_per_month or 10,
        actor="",
        update_time=clock.now(),
    )


def _calling_user() -> str | None:
    caller = current_caller()
    return caller.name if caller.kind is CallerKind.USER else None


def _money(field: str, amount: Amount, violations: Violations) -> Money:
    return Money(amount.currency_code, parse_amount(field, amount, violations))


def _fields(rpc: str, request: Message) -> Mapping[str, object]:
    """Return a request by the names of its fields, as it is kept and compared with a repeat."""
    return {"rpc": rpc} | MessageToDict(request, preserving_proto_field_name=True)
