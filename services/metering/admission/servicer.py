"""AdmissionService over gRPC: reads requests, calls the use cases, renders responses."""

from collections.abc import Mapping, Sequence
from typing import Final

import grpc

from libs.common.amount import format_amount, render_amount
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.timestamps import fill_time
from libs.common.validation import Reader
from services.metering.admission.admission import Admission, Request
from services.metering.admission.domain import HOLD_TTL_DEFAULT_MS, Decision, Denied
from services.metering.clients.identity import KeyPrincipal
from services.metering.model.parsing import read_tokens
from services.metering.model.rates import STANDARD_TIER
from services.metering.model.units import Kind, Units
from services.metering.usage.dimensions import LIVE, TEST
from services.metering.usage.domain import Accepted
from services.metering.usage.parsing import read_endpoint
from services.metering.usage.rendering import fill_balance, fill_usage
from services.metering.usage.servicer import check_usage, read_listed_quantities, read_usage
from services.metering.usage.usages import Usages
from tollhouse.common.v1 import amount_pb2
from tollhouse.metering.v1 import admission_pb2 as pb
from tollhouse.metering.v1 import admission_pb2_grpc as rpc
from tollhouse.metering.v1 import usage_pb2

_ENVIRONMENTS: Final = {LIVE: usage_pb2.ENVIRONMENT_LIVE, TEST: usage_pb2.ENVIRONMENT_TEST}


class AdmissionServicer(rpc.AdmissionServiceServicer):
    """Serves admission."""

    def __init__(self, admission: Admission, usages: Usages) -> None:
        self._admission = admission
        self._usages = usages

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "Settle": lambda request: check_usage(request, self._usages),
        }

    async def Authorize(self, request: pb.AuthorizeRequest, context: grpc.aio.ServicerContext) -> pb.AuthorizeResponse:
        await self._usages.know_units(one.unit for one in request.quantities)
        return _render_decision(await self._admission.authorize(_read_request(request, self._usages.units)))

    async def Settle(self, request: pb.SettleRequest, context: grpc.aio.ServicerContext) -> pb.SettleResponse:
        await self._usages.know_units(one.unit for one in request.quantities)
        work = read_usage(request, self._usages)
        (outcome,) = await self._usages.record([work])
        if isinstance(outcome, Exception):
            raise outcome
        return _render_settled(outcome, work.adjusted, self._usages.units)

    async def Cancel(self, request: pb.CancelRequest, context: grpc.aio.ServicerContext) -> pb.CancelResponse:
        code, released, replayed = await self._admission.cancel(request.organization_id.lower(), request.operation_id)
        return pb.CancelResponse(released_amount=render_amount(code, released), replayed=replayed)


def _render_settled(outcome: Accepted, adjusted: Sequence[str], units: Units) -> pb.SettleResponse:
    response = pb.SettleResponse(adjusted_fields=adjusted)
    code = outcome.recorded.cost.currency_code if outcome.recorded.cost else ""
    if outcome.released is not None:
        _fill_amount(response.released_amount, code, outcome.released)
    if outcome.overrun is not None:
        _fill_amount(response.overrun_amount, code, outcome.overrun)
    if outcome.replayed:
        response.replayed = True
    fill_usage(response.usage, outcome.recorded, units)
    if outcome.balance is not None:
        fill_balance(response.balance, outcome.balance)
    return response


def _read_request(request: pb.AuthorizeRequest, units: Units) -> Request:
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


def _render_decision(decision: Decision) -> pb.AuthorizeResponse:
    if isinstance(decision, Denied):
        return _render_denial(decision)
    pinned = decision.pinned
    response = pb.AuthorizeResponse(
        decision=pb.DECISION_ALLOWED,
        hold_id=decision.hold_id,
        price_version_id=pinned.price_version_id,
        max_output_tokens=pinned.ask.max_output_tokens,
        replayed=decision.replayed,
        environment=_ENVIRONMENTS[pinned.ask.environment],
        stale_key=decision.stale_key,
    )
    _fill_principal(response.principal, decision.principal)
    _fill_amount(response.held_amount, pinned.currency_code, format_amount(pinned.amount))
    if decision.expire_time is not None:
        fill_time(response.expire_time, decision.expire_time)
    return response


def _render_denial(denied: Denied) -> pb.AuthorizeResponse:
    response = pb.AuthorizeResponse(decision=pb.DECISION_DENIED, replayed=denied.replayed, stale_key=denied.stale_key)
    response.denial.reason = pb.DenialReason.Value(f"DENIAL_REASON_{denied.reason}")
    response.denial.message = denied.message
    response.denial.facts.update(denied.facts)
    if denied.principal is not None:
        _fill_principal(response.principal, denied.principal)
    return response


def _fill_principal(message: pb.Principal, principal: KeyPrincipal) -> None:
    message.organization_id = principal.organization_id
    if principal.project_id:
        message.project_id = principal.project_id
    if principal.user_id:
        message.user_id = principal.user_id
    if principal.service_account_id:
        message.service_account_id = principal.service_account_id
    if principal.api_key_id:
        message.api_key_id = principal.api_key_id
    message.scopes.extend(principal.scopes)


def _fill_amount(amount: amount_pb2.Amount, currency_code: str, value: str) -> None:
    amount.currency_code = currency_code
    amount.value = value
