"""AdmissionService over gRPC: reads requests, calls the use cases, renders responses."""

from collections.abc import Mapping

import grpc

from libs.common import validation
from libs.common.amount import render_amount
from libs.common.errors import FieldViolation, InvalidArgument, Refusal
from libs.common.pages import encode_page_token, page_size, that_fit
from libs.common.timestamps import parse_time, time_text
from libs.common.validation import Reader
from services.metering.admission.admission import Admission
from services.metering.admission.authorizations import Authorizations
from services.metering.admission.domain import Decision, Request
from services.metering.admission.parsing import read_filters, read_list_token, read_request
from services.metering.admission.rendering import (
    fill_authorize_outcome,
    fill_decision,
    fill_settle_outcome,
    fill_settled,
    render_authorization,
)
from services.metering.usage.query_parsing import list_fingerprint
from services.metering.usage.servicer import check_usage, list_range, read_usage, record_each
from services.metering.usage.usages import Usages
from tollhouse.metering.v1 import admission_pb2 as pb
from tollhouse.metering.v1 import admission_pb2_grpc as rpc


class AdmissionServicer(rpc.AdmissionServiceServicer):
    """Serves admission."""

    def __init__(self, admission: Admission, authorizations: Authorizations, usages: Usages) -> None:
        self._admission = admission
        self._authorizations = authorizations
        self._usages = usages

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "Settle": self._check_settlement,
            "ListAuthorizations": lambda request: list_range(request, self._authorizations.now()),
        }

    async def Authorize(self, request: pb.AuthorizeRequest, context: grpc.aio.ServicerContext) -> pb.AuthorizeResponse:
        await self._usages.know_units(one.unit for one in request.quantities)
        (decision,) = await self._admission.authorize([read_request(request, self._usages.units)])
        if isinstance(decision, Exception):
            raise decision
        response = pb.AuthorizeResponse()
        fill_decision(response, decision)
        return response

    async def BatchAuthorize(
        self, request: pb.BatchAuthorizeRequest, context: grpc.aio.ServicerContext
    ) -> pb.BatchAuthorizeResponse:
        await self._usages.know_units(listed.unit for one in request.requests for listed in one.quantities)
        outcomes: dict[int, Decision | Exception] = {}
        asked: dict[int, Request] = {}
        for place, one in enumerate(request.requests):
            try:
                validation.check(one)
                asked[place] = read_request(one, self._usages.units)
            except Refusal as refusal:
                outcomes[place] = refusal
        if asked:
            outcomes.update(zip(asked, await self._admission.authorize(list(asked.values())), strict=True))
        response = pb.BatchAuthorizeResponse()
        for place, one in enumerate(request.requests):
            fill_authorize_outcome(response.outcomes.add(), one, outcomes[place])
        return response

    async def Settle(self, request: pb.SettleRequest, context: grpc.aio.ServicerContext) -> pb.SettleResponse:
        await self._usages.know_units(one.unit for one in request.quantities)
        work = read_usage(request, self._usages)
        (outcome,) = await self._usages.record([work])
        if isinstance(outcome, Exception):
            raise outcome
        response = pb.SettleResponse()
        fill_settled(response, outcome, work.adjusted, self._usages.units)
        return response

    async def BatchSettle(
        self, request: pb.BatchSettleRequest, context: grpc.aio.ServicerContext
    ) -> pb.BatchSettleResponse:
        response = pb.BatchSettleResponse()
        outcomes = await record_each(request.requests, self._usages)
        for one, (outcome, adjusted) in zip(request.requests, outcomes, strict=True):
            fill_settle_outcome(response.outcomes.add(), one, outcome, adjusted, self._usages.units)
        return response

    async def Cancel(self, request: pb.CancelRequest, context: grpc.aio.ServicerContext) -> pb.CancelResponse:
        code, released, replayed = await self._authorizations.cancel(
            request.organization_id.lower(), request.operation_id
        )
        return pb.CancelResponse(released_amount=render_amount(code, released), replayed=replayed)

    async def ExtendAuthorization(
        self, request: pb.ExtendAuthorizationRequest, context: grpc.aio.ServicerContext
    ) -> pb.ExtendAuthorizationResponse:
        violations: list[FieldViolation] = []
        expire_time = parse_time("expire_time", request.expire_time, violations)
        if violations:
            raise InvalidArgument(violations)
        stored = await self._authorizations.extend(request.organization_id.lower(), request.operation_id, expire_time)
        rendered = render_authorization(stored, self._authorizations.now())
        return pb.ExtendAuthorizationResponse(authorization=rendered)

    async def ListAuthorizations(
        self, request: pb.ListAuthorizationsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListAuthorizationsResponse:
        now = self._authorizations.now()
        start_time, end_time = list_range(request, now)
        fingerprint = list_fingerprint(request, "start_time", "end_time")
        stored, following = await self._authorizations.list_authorizations(
            organization_id=request.organization_id.lower(),
            start_time=start_time,
            end_time=end_time,
            after=read_list_token(request.page_token, fingerprint),
            filters=read_filters(request),
            limit=page_size(request.page_size),
        )
        authorizations = that_fit(render_authorization(one, now) for one in stored)
        if len(authorizations) < len(stored):
            last = stored[len(authorizations) - 1].pinned
            following = last.create_time, last.ask.operation_id
        token = encode_page_token(time_text(following[0]), following[1], fingerprint=fingerprint) if following else ""
        return pb.ListAuthorizationsResponse(authorizations=authorizations, next_page_token=token)

    def _check_settlement(self, request: pb.SettleRequest) -> None:
        check_usage(request, self._usages)
