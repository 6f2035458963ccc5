"""Proto in, use case, proto out."""

import grpc

from libs.common.amount import render_amount
from libs.common.errors import Refusal
from libs.common.timestamps import render_time
from services.metering.admission.admission import Admission, Request
from services.metering.admission.model import HOLD_TTL_DEFAULT_MS, Decision, Denied
from services.metering.clients.identity import KeyPrincipal
from services.metering.usage.servicer import fill_balance, fill_usage, read_usage
from services.metering.usage.usages import Usages
from tollhouse.common.v1 import amount_pb2
from tollhouse.metering.v1 import admission_pb2 as pb
from tollhouse.metering.v1 import admission_pb2_grpc as rpc


class AdmissionServicer(rpc.AdmissionServiceServicer):
    """Serves admission."""

    def __init__(self, admission: Admission, usages: Usages) -> None:
        self._admission = admission
        self._usages = usages

    async def Authorize(self, request: pb.AuthorizeRequest, context: grpc.aio.ServicerContext) -> pb.AuthorizeResponse:
        return _render_decision(await self._admission.authorize(_read_request(request)))

    async def Settle(self, request: pb.SettleRequest, context: grpc.aio.ServicerContext) -> pb.SettleResponse:
        (outcome,) = await self._usages.record([read_usage(request, self._usages)])
        if isinstance(outcome, Refusal):
            raise outcome
        code = outcome.recorded.cost.currency_code if outcome.recorded.cost else ""
        response = pb.SettleResponse(
            released_amount=_amount(code, outcome.released),
            overrun_amount=_amount(code, outcome.overrun),
            replayed=outcome.replayed,
        )
        fill_usage(response.usage, outcome.recorded)
        fill_balance(response.balance, outcome.balance)
        return response

    async def Cancel(self, request: pb.CancelRequest, context: grpc.aio.ServicerContext) -> pb.CancelResponse:
        code, released, replayed = await self._admission.cancel(request.organization_id.lower(), request.operation_id)
        return pb.CancelResponse(released_amount=render_amount(code, released), replayed=replayed)


def _read_request(request: pb.AuthorizeRequest) -> Request:
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
        endpoint=request.endpoint or None,
        required_scopes=list(request.required_scopes),
        min_revision=request.min_revision,
        hold_ttl_ms=ttl_ms,
    )


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
        return pb.AuthorizeResponse(
            decision=pb.DECISION_DENIED,
            denial=pb.Denial(
                reason=pb.DenialReason.Value(f"DENIAL_REASON_{decision.reason}"),
                message=decision.message,
                facts=decision.facts,
            ),
            principal=_render_principal(decision.principal),
            replayed=decision.replayed,
        )
    pinned = decision.pinned
    return pb.AuthorizeResponse(
        decision=pb.DECISION_ALLOWED,
        principal=_render_principal(decision.principal),
        hold_id=decision.hold_id,
        held_amount=render_amount(pinned.currency_code, pinned.amount),
        expire_time=render_time(decision.expire_time) if decision.expire_time else None,
        price_version_id=pinned.price_version_id,
        max_output_tokens=pinned.ask.max_output_tokens,
        replayed=decision.replayed,
    )


def _render_principal(principal: KeyPrincipal | None) -> pb.Principal | None:
    if principal is None:
        return None
    return pb.Principal(
        organization_id=principal.organization_id,
        project_id=principal.project_id or "",
        user_id=principal.user_id or "",
        service_account_id=principal.service_account_id or "",
        api_key_id=principal.api_key_id or "",
        scopes=principal.scopes,
    )


def _amount(currency_code: str, value: str | None) -> amount_pb2.Amount | None:
    return None if value is None else amount_pb2.Amount(currency_code=currency_code, value=value)
