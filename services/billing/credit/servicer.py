"""CreditService over gRPC."""

from collections.abc import Mapping

import grpc

from libs.common.amount import render_amount
from libs.common.call import current_actor
from libs.common.clock import Clock
from libs.common.validation import Reader
from services.billing.credit.credits import Credits
from services.billing.credit.domain import Beneficiary
from services.billing.credit.parsing import check_reason, read_grant, read_state, read_transaction
from services.billing.credit.rendering import render_explanation, render_grant, render_summary
from services.billing.ledger.domain import ZERO
from services.billing.ledger.rendering import render_balance
from tollhouse.billing.v1 import credit_pb2 as pb
from tollhouse.billing.v1 import credit_pb2_grpc as rpc

_Context = grpc.aio.ServicerContext


class CreditServicer(rpc.CreditServiceServicer):
    """Parses and renders what `Credits` does."""

    def __init__(self, use_case: Credits, clock: Clock) -> None:
        self._credits = use_case
        self._clock = clock

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "GrantCredits": lambda request: read_grant(request, self._clock),
            "VoidGrant": check_reason,
            "ExplainCharge": read_transaction,
        }

    async def GrantCredits(self, request: pb.GrantCreditsRequest, context: _Context) -> pb.GrantCreditsResponse:
        granted = await self._credits.grant(read_grant(request, self._clock))
        return pb.GrantCreditsResponse(
            grant=render_grant(granted.grant), balance=render_balance(granted.balance), replayed=granted.replayed
        )

    async def ListGrants(self, request: pb.ListGrantsRequest, context: _Context) -> pb.ListGrantsResponse:
        grants, token = await self._credits.page(
            request.organization_id.lower(),
            project_id=request.project_id.lower() or None,
            currency_code=request.currency_code or None,
            state=read_state(request.state),
            whose=Beneficiary(request.user_id.lower() or None, request.model or None),
            size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListGrantsResponse(grants=map(render_grant, grants), next_page_token=token)

    async def VoidGrant(self, request: pb.VoidGrantRequest, context: _Context) -> pb.VoidGrantResponse:
        check_reason(request)
        granted = await self._credits.void(
            request.organization_id.lower(), request.grant_id.lower(), request.reason, current_actor()
        )
        return pb.VoidGrantResponse(
            grant=render_grant(granted.grant),
            balance=render_balance(granted.balance),
            voided_amount=render_amount(granted.grant.currency_code, granted.voided or ZERO),
        )

    async def GetCreditSummary(
        self, request: pb.GetCreditSummaryRequest, context: _Context
    ) -> pb.GetCreditSummaryResponse:
        summary = await self._credits.summary(
            request.organization_id.lower(),
            request.project_id.lower() or None,
            request.currency_code,
            Beneficiary(request.user_id.lower() or None, request.model or None),
        )
        return render_summary(summary)

    async def ExplainCharge(self, request: pb.ExplainChargeRequest, context: _Context) -> pb.ExplainChargeResponse:
        explanation = await self._credits.explain(request.organization_id.lower(), *read_transaction(request))
        return render_explanation(explanation)
