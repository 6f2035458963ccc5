"""Requests of admission, read into what its use cases take."""

import json
from collections.abc import Collection, Mapping
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from libs.common.amount import parse_amount
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.pages import decode_page_token, foreign_token
from libs.common.timestamps import fill_time, time_of_text
from libs.common.update_mask import mask_violations
from services.metering.admission.domain import HOLD_TTL_DEFAULT_MS, More, Request, State
from services.metering.admission.parts import PartRequest
from services.metering.admission.policy import (
    LAPSE_AFTER_DEFAULT,
    UPDATABLE,
    FixedAmount,
    LapseCharge,
    OutputHold,
    Policy,
)
from services.metering.admission.store import Filters, Place
from services.metering.clients.identity import KeyPrincipal
from services.metering.model.parsing import read_tokens
from services.metering.model.rates import STANDARD_TIER
from services.metering.model.units import Kind, Quantities, Units
from services.metering.usage.domain import Work
from services.metering.usage.parsing import read_endpoint
from services.metering.usage.servicer import read_listed_quantities, read_usage
from services.metering.usage.usages import Usages
from tollhouse.metering.v1 import admission_pb2 as pb


def read_request(request: pb.AuthorizeRequest, units: Units) -> Request:
    """Read what is asked for.

    Raises:
        InvalidArgument: the quantities are wrong, or an estimate has other counts beside it.
    """
    estimate = read_tokens(request.estimate) if request.HasField("estimate") else None
    violations: list[FieldViolation] = []
    if estimate is not None:
        beside = {
            "input_tokens": bool(request.input_tokens),
            "max_output_tokens": request.HasField("max_output_tokens"),
        }
        _check_estimate_alone(beside, violations)
    quantities = _read_quantities(request, units, violations)
    if violations:
        raise InvalidArgument(violations)
    with_key = request.WhichOneof("caller") == "api_key"
    ttl = request.hold_ttl
    ttl_ms = ttl.seconds * 1000 + ttl.nanos // 1_000_000 if request.HasField("hold_ttl") else HOLD_TTL_DEFAULT_MS
    return Request(
        operation_id=request.operation_id,
        secret=request.api_key if with_key else None,
        principal=None if with_key else _read_principal(request.principal),
        model=request.model,
        input_tokens=request.input_tokens,
        max_output_tokens=request.max_output_tokens if request.HasField("max_output_tokens") else None,
        estimate=estimate,
        endpoint=read_endpoint(request),
        required_scopes=list(request.required_scopes),
        min_revision=request.min_revision,
        hold_ttl_ms=ttl_ms,
        client_address=request.client_address,
        fail_if_replayed=request.fail_if_replayed,
        quantities=quantities,
        service_tier=request.service_tier or STANDARD_TIER,
        subscription_id=request.subscription_id.lower() or None,
        items=request.items,
        labels=dict(request.labels),
    )


def is_part(request: pb.SettleRequest) -> bool:
    """Tell whether a settlement is a part of a call, and not its last one."""
    return request.HasField("final") and not request.final


def read_part(request: pb.SettleRequest, usages: Usages) -> PartRequest:
    """Read a part of a call.

    Raises:
        InvalidArgument: the time is no moment, or the quantities are wrong.
    """
    work = read_usage(request, usages)
    return PartRequest(work, _kept(request, work).SerializeToString(deterministic=True))


def read_kept(request: bytes, usages: Usages) -> Work:
    """Read the settlement that is stored with a part of a call.

    Raises:
        InvalidArgument: a unit is not known here yet.
    """
    return read_usage(pb.SettleRequest.FromString(request), usages)


def _kept(request: pb.SettleRequest, work: Work) -> pb.SettleRequest:
    """Return the settlement that is recorded if no later one comes: of text, as much as is recorded, and with its time.

    It is read again as the same work.
    """
    kept = pb.SettleRequest()
    kept.CopyFrom(request)
    for name in ("final", "latency_ms", "status_code", "labels"):
        kept.ClearField(name)
    kept.error_message = work.error_message or ""
    kept.endpoint = work.endpoint or ""
    kept.conversation_id = work.conversation_id or ""
    kept.labels.update(json.loads(work.labels) if work.labels else {})
    if work.latency_ms is not None:
        kept.latency_ms = work.latency_ms
    if work.status_code is not None:
        kept.status_code = work.status_code
    fill_time(kept.occur_time, work.occur_time)
    return kept


def read_more(request: pb.ExtendAuthorizationRequest, units: Units, violations: list[FieldViolation]) -> More | None:
    """Read what a call may use as a whole; None where nothing is said. What is wrong is added to `violations`."""
    estimate = read_tokens(request.estimate) if request.HasField("estimate") else None
    input_tokens = request.input_tokens if request.HasField("input_tokens") else None
    max_output_tokens = request.max_output_tokens if request.HasField("max_output_tokens") else None
    if estimate is None and input_tokens is None and max_output_tokens is None and not request.quantities:
        return None
    if estimate is not None:
        _check_estimate_alone(
            {"input_tokens": input_tokens is not None, "max_output_tokens": max_output_tokens is not None}, violations
        )
    quantities = _read_quantities(request, units, violations)
    return More(input_tokens, max_output_tokens, estimate, quantities if request.quantities else None)


def _read_quantities(
    request: pb.AuthorizeRequest | pb.ExtendAuthorizationRequest, units: Units, violations: list[FieldViolation]
) -> Quantities:
    """Read the quantities beside the tokens. Without an estimate they are of no kind of tokens."""
    quantities = read_listed_quantities(request, units, violations)
    if not request.HasField("estimate"):
        violations += [
            FieldViolation("quantities", f"{unit} is counted by input_tokens or max_output_tokens")
            for unit in quantities
            if units[unit].kind is Kind.TOKEN
        ]
    return quantities


def read_policy_changes(request: pb.UpdateAdmissionPolicyRequest) -> tuple[Policy, Collection[str]]:
    """Read a policy with the new values, and the names of the fields to change; the others are not looked at.

    Raises:
        InvalidArgument: the mask names no field or another one, or a value is wrong.
    """
    fields = set(request.update_mask.paths)
    violations = mask_violations(fields, UPDATABLE)
    fixed = None
    if "fixed_amount" in fields and request.HasField("fixed_amount"):
        value = parse_amount("fixed_amount", request.fixed_amount, violations)
        fixed = FixedAmount(value, request.fixed_amount.currency_code)
    lapse_after = LAPSE_AFTER_DEFAULT
    if "lapse_after" in fields and request.HasField("lapse_after"):
        lapse_after = _read_lapse_after(request.lapse_after, violations)
    if violations:
        raise InvalidArgument(violations)
    output_hold = pb.OutputHold.Name(request.output_hold or pb.OUTPUT_HOLD_MODEL_MAX)
    lapse_charge = pb.LapseCharge.Name(request.lapse_charge or pb.LAPSE_CHARGE_RELEASE)
    policy = Policy(
        OutputHold(output_hold.removeprefix("OUTPUT_HOLD_")),
        request.output_tokens_cap,
        fixed,
        LapseCharge(lapse_charge.removeprefix("LAPSE_CHARGE_")),
        lapse_after,
    )
    return policy, fields


def _read_lapse_after(duration: Duration, violations: list[FieldViolation]) -> timedelta:
    if duration.nanos % 1_000_000:
        violations.append(FieldViolation("lapse_after", "must be a whole number of milliseconds"))
    return timedelta(seconds=duration.seconds, milliseconds=duration.nanos // 1_000_000)


def read_filters(request: pb.ListAuthorizationsRequest) -> Filters:
    state = pb.AuthorizationState.Name(request.state).removeprefix("AUTHORIZATION_STATE_") if request.state else None
    return Filters(
        request.project_id.lower() or None,
        request.user_id.lower() or None,
        request.api_key_id.lower() or None,
        request.model or None,
        State(state) if state else None,
    )


def read_list_token(token: str, fingerprint: str) -> Place | None:
    """Return after which authorization the page begins; None for the first page.

    Raises:
        InvalidArgument: the token is none of this list.
    """
    if not token:
        return None
    parts = decode_page_token(token, fingerprint)
    if len(parts) != 2 or not parts[0].isdecimal() or not parts[0].isascii():
        raise foreign_token()
    try:
        return time_of_text(parts[0]), parts[1]
    except ValueError as error:
        raise foreign_token() from error


def _check_estimate_alone(beside: Mapping[str, bool], violations: list[FieldViolation]) -> None:
    """Add the fields that are given beside an estimate and must not be."""
    violations += [
        FieldViolation(name, "must not be given beside an estimate") for name, given in beside.items() if given
    ]


def _read_principal(principal: pb.Principal) -> KeyPrincipal:
    return KeyPrincipal(
        organization_id=principal.organization_id.lower(),
        project_id=principal.project_id.lower() or None,
        user_id=principal.user_id.lower() or None,
        service_account_id=principal.service_account_id.lower() or None,
        api_key_id=principal.api_key_id.lower() or None,
    )
