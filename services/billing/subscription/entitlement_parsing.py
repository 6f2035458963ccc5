"""Requests on entitlements, read into commands."""

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.ids import NIL, is_id
from libs.common.pages import decode_page_token, foreign_token
from libs.common.timestamps import parse_time
from services.billing.plan.domain import entitlement_flaws
from services.billing.plan.parsing import entitlement_in
from services.billing.subscription.entitlement_store import OverrideKey
from services.billing.subscription.entitlements import BEFORE_ALL, WantedOverride
from tollhouse.billing.v1 import subscription_pb2 as pb

Asking = pb.GetEntitlementsRequest | pb.ListEntitlementOverridesRequest | pb.SetEntitlementOverrideRequest


def read_user(request: Asking) -> str | None:
    """Return the user that a request is about; None for none.

    Raises:
        InvalidArgument: the id can be no user's.
    """
    violations = _user_flaws(request)
    if violations:
        raise InvalidArgument(violations)
    return request.user_id.lower() or None


def read_override(request: pb.SetEntitlementOverrideRequest) -> WantedOverride:
    """Return what an override is to be.

    Raises:
        InvalidArgument: naming every field that cannot be so.
    """
    violations = _user_flaws(request)
    entitlement = expire_time = None
    if request.HasField("entitlement"):
        entitlement = entitlement_in(request.entitlement)
    if request.HasField("expire_time"):
        expire_time = parse_time("expire_time", request.expire_time, violations)
    if request.clear:
        for field, given in (("entitlement", entitlement), ("expire_time", expire_time)):
            if given is not None:
                violations.append(FieldViolation(field, "must be absent where clear is set"))
    elif entitlement is None:
        violations.append(FieldViolation("entitlement", "is required unless clear is set"))
    else:
        if entitlement.entitlement_code != request.entitlement_code:
            violations.append(FieldViolation("entitlement.entitlement_code", "must be the same as entitlement_code"))
        violations += entitlement_flaws("entitlement", entitlement)
    if not request.reason.strip():
        violations.append(FieldViolation("reason", "must not be blank"))
    if violations:
        raise InvalidArgument(violations)
    return WantedOverride(
        organization_id=request.organization_id.lower(),
        user_id=request.user_id.lower() or None,
        model=request.model or None,
        entitlement_code=request.entitlement_code,
        entitlement=entitlement,
        expire_time=expire_time,
        reason=request.reason,
    )


def read_place(page_token: str, fingerprint: str) -> OverrideKey:
    """Return the key after which a page of overrides begins.

    Raises:
        InvalidArgument: the token is not one of ours, or belongs to another query.
    """
    if not page_token:
        return BEFORE_ALL
    key = decode_page_token(page_token, fingerprint)
    if len(key) != len(BEFORE_ALL) or not is_id(key[0]):
        raise foreign_token()
    user_id, model, entitlement_code = key
    return user_id, model, entitlement_code


def _user_flaws(request: Asking) -> list[FieldViolation]:
    return [FieldViolation("user_id", "must not be the nil UUID")] if request.user_id == NIL else []
