"""AdmissionService over gRPC: reads requests, calls the use cases, renders responses."""

from collections.abc import Mapping, Sequence

import grpc

from libs.common import validation
from libs.common.amount import render_amount
from libs.common.errors import FieldViolation, InvalidArgument, Refusal
from libs.common.pages import encode_page_token, page_size, that_fit
from libs.common.timestamps import parse_time, time_text
from libs.common.validation import Reader
from services.metering.admission.admission import Admission
from services.metering.admission.authorizations import Authorizations
from services.metering.admission.domain import Decision, Denied, Request
from services.metering.admission.hints import hints_of
from services.metering.admission.parsing import (
    is_part,
    read_filters,
    read_list_token,
    read_more,
    read_part,
    read_policy_changes,
    read_request,
)
from services.metering.admission.parts import PartRequest, Parts
from services.metering.admission.policies import Policies
from services.metering.admission.rendering import (
    fill_authorize_outcome,
    fill_decision,
    fill_policy,
    fill_settle_outcome,
    fill_settled,
    render_authorization,
    shorten_settled,
)
from services.metering.usage.domain import Outcome, limits_to_tell
from services.metering.usage.query_parsing import list_fingerprint
from services.metering.usage.servicer import check_usage, list_range, read_usage, record_each
from services.metering.usage.usages import Usages
from tollhouse.metering.v1 import admission_pb2 as pb
from tollhouse.metering.v1 import admission_pb2_grpc as rpc


class AdmissionServicer(rpc.AdmissionServiceServicer):
    """Serves admission."""

    def __init__(
        self,
        admission: Admission,
        authorizations: Authorizations,
        parts: Parts,
        policies: Policies,
        usages: Usages,
    ) -> None:
        self._admission = admission
        self._authorizations = authorizations
        self._parts = parts
        self._policies = policies
        self._usages = usages

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "Settle": self._check_settlement,
            "ListAuthorizations": lambda request: list_range(request, self._authorizations.now()),
            "UpdateAdmissionPolicy": read_policy_changes,
        }

    async def Authorize(self, request: pb.AuthorizeRequest, context: grpc.aio.ServicerContext) -> pb.AuthorizeResponse:
        await self._usages.know_units(one.unit for one in request.quantities)
        (decision,) = await self._admission.authorize([read_request(request, self._usages.units)])
        if isinstance(decision, Exception):
            raise decision
        response = pb.AuthorizeResponse()
        fill_decision(response, decision)
        if decision.limits or isinstance(decision, Denied):
            context.set_trailing_metadata(hints_of(decision, self._authorizations.now()))
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
        if is_part(request):
            part = read_part(request, self._usages)
            work, (outcome,) = part.work, await self._parts.settle([part])
        else:
            work = read_usage(request, self._usages)
            (outcome,) = await self._usages.record([work])
        if isinstance(outcome, Exception):
            raise outcome
        response = pb.SettleResponse()
        fill_settled(response, outcome, work.adjusted, self._usages.units, outcome.limits)
        return response

    async def BatchSettle(
        self, request: pb.BatchSettleRequest, context: grpc.aio.ServicerContext
    ) -> pb.BatchSettleResponse:
        parts = [place for place, one in enumerate(request.requests) if is_part(one)]
        last = [place for place, one in enumerate(request.requests) if not is_part(one)]
        outcomes: dict[int, tuple[Outcome, Sequence[str]]] = {}
        # The parts come first: a last settlement is of the whole call.
        for places, settle in ((parts, self._settle_parts), (last, self._settle_last)):
            if places:
                outcomes.update(zip(places, await settle([request.requests[place] for place in places]), strict=True))
        limits = limits_to_tell([outcomes[place][0] for place in range(len(outcomes))])
        response = pb.BatchSettleResponse()
        for place, one in enumerate(request.requests):
            fill_settle_outcome(response.outcomes.add(), one, *outcomes[place], self._usages.units, limits[place])
        shorten_settled(response)
        return response

    async def _settle_last(self, requests: Sequence[pb.SettleRequest]) -> list[tuple[Outcome, Sequence[str]]]:
        return await record_each(requests, self._usages)

    async def _settle_parts(self, requests: Sequence[pb.SettleRequest]) -> list[tuple[Outcome, Sequence[str]]]:
        """Settle the parts that are well formed; return each outcome with the fields that were adjusted."""
        await self._usages.know_units(one.unit for request in requests for one in request.quantities)
        outcomes: dict[int, tuple[Outcome, Sequence[str]]] = {}
        parts: dict[int, PartRequest] = {}
        for place, request in enumerate(requests):
            try:
                validation.check(request, self._check_settlement)
                parts[place] = read_part(request, self._usages)
            except Refusal as refusal:
                outcomes[place] = refusal, ()
        settled = await self._parts.settle(list(parts.values()))
        for (place, part), outcome in zip(parts.items(), settled, strict=True):
            outcomes[place] = outcome, part.work.adjusted
        return [outcomes[place] for place in range(len(requests))]

    async def Cancel(self, request: pb.CancelRequest, context: grpc.aio.ServicerContext) -> pb.CancelResponse:
        code, released, replayed = await self._authorizations.cancel(
            request.organization_id.lower(), request.operation_id
        )
        return pb.CancelResponse(released_amount=render_amount(code, released), replayed=replayed)

    async def ExtendAuthorization(
        self, request: pb.ExtendAuthorizationRequest, context: grpc.aio.ServicerContext
    ) -> pb.ExtendAuthorizationResponse:
        await self._usages.know_units(one.unit for one in request.quantities)
        violations: list[FieldViolation] = []
        expire_time = None
        if request.HasField("expire_time"):
            expire_time = parse_time("expire_time", request.expire_time, violations)
        more = read_more(request, self._usages.units, violations)
        if expire_time is None and more is None and not violations:
            violations.append(FieldViolation("expire_time", "must be given where the call may not use more"))
        if violations:
            raise InvalidArgument(violations)
        stored = await self._authorizations.extend(
            request.organization_id.lower(), request.operation_id, expire_time, more
        )
        rendered = render_authorization(stored, self._authorizations.now())
        return pb.ExtendAuthorizationResponse(authorization=rendered)

    async def GetAdmissionPolicy(
        self, request: pb.GetAdmissionPolicyRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetAdmissionPolicyResponse:
        organization_id = request.organization_id.lower()
        response = pb.GetAdmissionPolicyResponse()
        fill_policy(response.policy, organization_id, await self._policies.get(organization_id))
        return response

    async def UpdateAdmissionPolicy(
        self, request: pb.UpdateAdmissionPolicyRequest, context: grpc.aio.ServicerContext
    ) -> pb.UpdateAdmissionPolicyResponse:
        organization_id = request.organization_id.lower()
        policy, fields = read_policy_changes(request)
        response = pb.UpdateAdmissionPolicyResponse()
        entry = await self._policies.update(organization_id, policy, fields, request.etag)
        fill_policy(response.policy, organization_id, entry)
        return response

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
