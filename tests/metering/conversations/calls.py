"""Calls about conversations in one line each."""

from collections.abc import Sequence
from decimal import Decimal

from libs.common.ids import new_id
from tests.metering.support import Metering, Platform, usd
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import conversation_pb2 as pb
from tollhouse.metering.v1 import conversation_pb2_grpc as rpc
from tollhouse.metering.v1 import model_pb2

Metadata = Sequence[tuple[str, str]]


def stub(metering: Metering) -> rpc.ConversationServiceStub:
    return rpc.ConversationServiceStub(metering.channel)


def penny(cost: str = "0.01") -> pb.MessageUsage:
    """Return usage that costs so many dollars."""
    return pb.MessageUsage(tokens=model_pb2.TokenCounts(input=1000, output=100), stated_amount=usd(cost))


def message(organization_id: str, conversation_id: str = "c1", **fields: object) -> pb.AppendMessageRequest:
    request = pb.AppendMessageRequest(
        organization_id=organization_id,
        conversation_id=conversation_id,
        operation_id=f"message-{new_id()}",
        role=pb.MESSAGE_ROLE_ASSISTANT,
        model="gpt-4o",
        content="Hello.",
    )
    request.MergeFrom(pb.AppendMessageRequest(**fields))  # type: ignore[arg-type]
    return request


async def begin(
    metering: Metering, organization_id: str, conversation_id: str = "c1", **fields: str
) -> pb.Conversation:
    request = pb.CreateConversationRequest(
        organization_id=organization_id,
        conversation_id=conversation_id,
        **fields,
    )
    return (await stub(metering).CreateConversation(request, metadata=metering.operator)).conversation


async def append(metering: Metering, request: pb.AppendMessageRequest) -> pb.AppendMessageResponse:
    return await stub(metering).AppendMessage(request, metadata=metering.operator)


async def conversation(
    metering: Metering, organization_id: str, conversation_id: str = "c1", metadata: Metadata = ()
) -> pb.Conversation:
    request = pb.GetConversationRequest(organization_id=organization_id, conversation_id=conversation_id)
    answer = await stub(metering).GetConversation(request, metadata=tuple(metadata) or metering.operator)
    return answer.conversation


async def messages(
    metering: Metering, organization_id: str, conversation_id: str = "c1", **fields: object
) -> list[pb.Message]:
    """Return all messages of a conversation, a small page at a time."""
    request = pb.ListMessagesRequest(organization_id=organization_id, conversation_id=conversation_id, page_size=7)
    request.MergeFrom(pb.ListMessagesRequest(**fields))  # type: ignore[arg-type]
    found: list[pb.Message] = []
    while True:
        page = await stub(metering).ListMessages(request, metadata=metering.operator)
        found += page.messages
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


async def listed(metering: Metering, organization_id: str, **fields: object) -> list[str]:
    """Return the ids of all conversations of a list, a small page at a time."""
    request = pb.ListConversationsRequest(organization_id=organization_id, page_size=2)
    request.MergeFrom(pb.ListConversationsRequest(**fields))  # type: ignore[arg-type]
    found: list[str] = []
    while True:
        page = await stub(metering).ListConversations(request, metadata=metering.operator)
        found += [one.conversation_id for one in page.conversations]
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


async def delete(metering: Metering, organization_id: str, conversation_id: str = "c1") -> pb.Conversation:
    request = pb.DeleteConversationRequest(organization_id=organization_id, conversation_id=conversation_id)
    return (await stub(metering).DeleteConversation(request, metadata=metering.operator)).conversation


async def set_policy(metering: Metering, organization_id: str, **fields: object) -> pb.ConversationPolicy:
    request = pb.UpdateConversationPolicyRequest(organization_id=organization_id, **fields)  # type: ignore[arg-type]
    request.update_mask.paths.extend(sorted(fields))
    return (await stub(metering).UpdateConversationPolicy(request, metadata=metering.operator)).policy


async def charged(platform: Platform, organization_id: str) -> Decimal:
    """Return what billing has charged the organization in all."""
    charges = await platform.billing_charges()
    return sum((amount for (owner, _), amount in charges.items() if owner == organization_id), Decimal(0))


def plain(amounts: Sequence[Amount]) -> dict[str, str]:
    return {one.currency_code: one.value for one in amounts}
