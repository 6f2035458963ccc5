"""Credits as messages."""

from typing import Final

from libs.common.amount import render_amount
from libs.common.timestamps import render_time
from services.billing.credit.domain import Explanation, Summary
from services.billing.ledger.grants import Grant, GrantKind, GrantState
from services.billing.ledger.rendering import render_balance, render_transaction
from tollhouse.billing.v1 import credit_pb2 as pb

_KINDS: Final = {kind: pb.GrantKind.Value(f"GRANT_KIND_{kind.value}") for kind in GrantKind}
_STATES: Final = {state: pb.GrantState.Value(f"GRANT_STATE_{state.value}") for state in GrantState}


def render_grant(grant: Grant) -> pb.Grant:
    message = pb.Grant(
        grant_id=grant.grant_id,
        organization_id=grant.organization_id,
        project_id=grant.project_id or "",
        account_id=grant.account_id,
        operation_id=grant.operation_id,
        amount=render_amount(grant.currency_code, grant.amount),
        kind=_KINDS[grant.kind],
        priority=grant.priority,
        effective_time=render_time(grant.effective_time),
        state=_STATES[grant.state],
        remaining_amount=render_amount(grant.currency_code, grant.rest),
        used_amount=render_amount(grant.currency_code, grant.used),
        expired_amount=render_amount(grant.currency_code, grant.expired),
        source_reference=grant.source_reference,
        description=grant.description,
        metadata=grant.metadata,
        create_time=render_time(grant.create_time),
        actor=grant.actor,
        void_reason=grant.void_reason,
        void_actor=grant.void_actor,
        user_id=grant.user_id or "",
        model=grant.model or "",
    )
    if grant.expire_time is not None:
        message.expire_time.CopyFrom(render_time(grant.expire_time))
    if grant.void_time is not None:
        message.void_time.CopyFrom(render_time(grant.void_time))
    return message


def render_summary(summary: Summary) -> pb.GetCreditSummaryResponse:
    code = summary.balance.currency_code
    response = pb.GetCreditSummaryResponse(
        balance=render_balance(summary.balance),
        granted=[
            pb.GrantedCredits(
                kind=_KINDS[kind],
                amount=render_amount(code, summary.granted[kind]),
                remaining_amount=render_amount(code, summary.remaining[kind]),
            )
            for kind in GrantKind
            if kind in summary.granted
        ],
        other_amount=None if summary.other is None else render_amount(code, summary.other),
        used_amount=render_amount(code, summary.used),
        expired_amount=render_amount(code, summary.expired),
    )
    if summary.next_expire_time is not None:
        response.next_expire_time.CopyFrom(render_time(summary.next_expire_time))
        response.next_expire_amount.CopyFrom(render_amount(code, summary.next_expire_amount))
    if summary.next_effective_time is not None:
        response.next_effective_time.CopyFrom(render_time(summary.next_effective_time))
    if summary.last_refill_time is not None:
        response.last_refill_time.CopyFrom(render_time(summary.last_refill_time))
        response.used_since_refill_amount.CopyFrom(render_amount(code, summary.used_since_refill))
    source = summary.source
    if source is not None:
        response.subscription_id = source.subscription_id
        response.period_start_time.CopyFrom(render_time(source.period_start_time))
        response.period_end_time.CopyFrom(render_time(source.period_end_time))
        if source.renews:
            response.next_refill_time.CopyFrom(render_time(source.period_end_time))
    return response


def render_explanation(explanation: Explanation) -> pb.ExplainChargeResponse:
    code = explanation.movement.currency_code
    return pb.ExplainChargeResponse(
        transaction=render_transaction(explanation.movement),
        uses=[
            pb.GrantUse(
                grant_id=use.grant_id,
                amount=render_amount(code, use.amount),
                remaining_amount=render_amount(code, use.rest),
            )
            for use in explanation.uses
        ],
        other_amount=render_amount(code, explanation.other),
    )
