"""Requests of admission, read into what its use cases take."""

import json

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.pages import decode_page_token
from libs.common.timestamps import fill_time, time_of_text
from services.metering.admission.domain import HOLD_TTL_DEFAULT_MS, Request, State
from services.metering.admission.parts import PartRequest
from services.metering.admission.store import Filters, Place
from services.metering.clients.identity import KeyPrincipal
from services.metering.model.parsing import read_tokens
from services.metering.model.rates import STANDARD_TIER
from services.metering.model.units import Kind, Units
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
        _check_estimate_alone(request, violations)
    quantities = read_listed_quantities(request, units, violations)
    if estimate is None:
        violations += [
            FieldViolation("quantities", f"{unit} is counted by input_tokens or max_output_tokens")
            for unit in quantities
            if units[unit].kind is Kind.TOKEN
        ]
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
        raise InvalidArgument([FieldViolation("page_token", "is not a token of this list")])
    try:
        return time_of_text(parts[0]), parts[1]
    except ValueError as error:
        raise InvalidArgument([FieldViolation("page_token", "is not a token of this list")]) from error


def _check_estimate_alone(request: pb.AuthorizeRequest, violations: list[FieldViolation]) -> None:
    beside = ["input_tokens"] if request.input_tokens else []
    if request.HasField("max_output_tokens"):
        beside.append("max_output_tokens")
    violations += [FieldViolation(name, "must not be given beside an estimate") for name in beside]


def _read_principal(principal: pb.Principal) -> KeyPrincipal:
    return KeyPrincipal(
        organization_id=principal.organization_id.lower(),
        project_id=principal.project_id.lower() or None,
        user_id=principal.user_id.lower() or None,
        service_account_id=principal.service_account_id.lower() or None,
        api_key_id=principal.api_key_id.lower() or None,
    )
