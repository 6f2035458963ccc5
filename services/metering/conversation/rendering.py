"""Conversations and messages, rendered into what the RPCs answer."""

from collections.abc import Iterable
from decimal import Decimal

from libs.common.amount import format_amount, render_amount
from libs.common.timestamps import fill_time, render_time
from services.metering.conversation.domain import Conversation, Message, Policy
from services.metering.conversation.statistics import Month
from services.metering.model.units import CLASS_OF_UNIT, quantity_text
from tollhouse.common.v1 import amount_pb2
from tollhouse.metering.v1 import conversation_pb2 as pb


def render_conversation(conversation: Conversation) -> pb.Conversation:
    message = pb.Conversation(
        organization_id=conversation.organization_id,
        conversation_id=conversation.conversation_id,
        project_id=conversation.project_id or "",
        user_id=conversation.user_id or "",
        title=conversation.title.text,
        title_state=pb.TextState.Value(f"TEXT_STATE_{conversation.title.state}"),
        model=conversation.model,
        archived=conversation.archived,
        message_count=conversation.message_count,
        costs=[
            amount_pb2.Amount(currency_code=currency_code, value=value)
            for currency_code, value in sorted(conversation.costs.items())
        ],
        create_time=render_time(conversation.create_time),
        update_time=render_time(conversation.update_time),
        etag=conversation.etag,
    )
    if conversation.delete_time is not None:
        fill_time(message.delete_time, conversation.delete_time)
    return message


def render_message(found: Message, content: str | None) -> pb.Message:
    message = pb.Message(
        organization_id=found.organization_id,
        conversation_id=found.conversation_id,
        position=found.position,
        operation_id=found.operation_id,
        role=pb.MessageRole.Value(f"MESSAGE_ROLE_{found.role}"),
        content=content,
        content_state=pb.TextState.Value(f"TEXT_STATE_{found.content.state}"),
        model=found.model,
        create_time=render_time(found.create_time),
    )
    used = found.used
    if used is not None:
        message.usage_id = used.usage_id
        for unit, value in sorted(used.quantities.items()):
            text = quantity_text(value)
            if unit in CLASS_OF_UNIT:
                setattr(message.tokens, CLASS_OF_UNIT[unit], int(text))
            else:
                message.quantities.add(unit=unit, value=text)
        if used.cost is not None and used.currency_code is not None:
            message.cost.CopyFrom(render_amount(used.currency_code, Decimal(used.cost)))
    return message


def render_policy(organization_id: str, policy: Policy, platform_days: int) -> pb.ConversationPolicy:
    message = pb.ConversationPolicy(
        organization_id=organization_id,
        keep_content=policy.keep_content,
        retention_days=policy.retention_days,
        platform_retention_days=platform_days,
        etag=policy.etag,
    )
    if policy.update_time is not None:
        fill_time(message.update_time, policy.update_time)
    return message


def render_months(months: Iterable[Month]) -> pb.GetConversationStatisticsResponse:
    return pb.GetConversationStatisticsResponse(months=map(_render_month, months))


def _render_month(month: Month) -> pb.ConversationMonth:
    costs: dict[str, Decimal] = {}
    for summary in month.summaries:
        if summary.currency_code:
            costs[summary.currency_code] = costs.get(summary.currency_code, Decimal(0)) + summary.cost
    return pb.ConversationMonth(
        month_time=render_time(month.start),
        messages=month.counts.messages,
        user_messages=month.counts.user_messages,
        assistant_messages=month.counts.assistant_messages,
        costs=[
            amount_pb2.Amount(currency_code=code, value=format_amount(value)) for code, value in sorted(costs.items())
        ],
    )
