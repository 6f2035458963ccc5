"""ConversationService over gRPC: reads requests, calls the use cases, renders responses."""

from collections.abc import Mapping

import grpc

from libs.common.errors import InvalidArgument
from libs.common.pages import decode_page_token, encode_page_token, page_size, that_fit
from libs.common.timestamps import parse_range, time_text
from libs.common.validation import Reader
from services.metering.conversation.conversations import Conversations
from services.metering.conversation.domain import MONTHS_DEFAULT, Conversation
from services.metering.conversation.messages import Appended, Messages
from services.metering.conversation.parsing import (
    read_beginning,
    read_listed,
    read_policy,
    read_position,
    read_role,
    read_start,
    read_update,
    read_work,
    within_usage,
)
from services.metering.conversation.policies import Policies
from services.metering.conversation.rendering import (
    render_conversation,
    render_message,
    render_months,
    render_policy,
)
from services.metering.conversation.statistics import Statistics
from services.metering.conversation.store import Place
from services.metering.usage.domain import Work
from services.metering.usage.query_parsing import list_fingerprint
from services.metering.usage.servicer import render_accepted
from services.metering.usage.usages import Usages
from tollhouse.metering.v1 import conversation_pb2 as pb
from tollhouse.metering.v1 import conversation_pb2_grpc as rpc


class ConversationServicer(rpc.ConversationServiceServicer):
    """Serves conversations."""

    def __init__(
        self,
        conversations: Conversations,
        messages: Messages,
        statistics: Statistics,
        policies: Policies,
        usages: Usages,
    ) -> None:
        self._conversations = conversations
        self._messages = messages
        self._statistics = statistics
        self._policies = policies
        self._usages = usages

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "CreateConversation": read_beginning,
            "ListConversations": parse_range,
            "UpdateConversation": read_update,
            "UpdateConversationPolicy": read_policy,
        }

    async def CreateConversation(
        self, request: pb.CreateConversationRequest, context: grpc.aio.ServicerContext
    ) -> pb.CreateConversationResponse:
        conversation, replayed = await self._conversations.begin(read_beginning(request))
        return pb.CreateConversationResponse(conversation=render_conversation(conversation), replayed=replayed)

    async def GetConversation(
        self, request: pb.GetConversationRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetConversationResponse:
        found = await self._conversations.get(request.organization_id.lower(), request.conversation_id)
        return pb.GetConversationResponse(conversation=render_conversation(found))

    async def ListConversations(
        self, request: pb.ListConversationsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListConversationsResponse:
        fingerprint = list_fingerprint(request)
        token = decode_page_token(request.page_token, fingerprint) if request.page_token else None
        listed = read_listed(request, self._usages.now(), token)
        found, following = await self._conversations.page(
            request.organization_id.lower(), listed, page_size(request.page_size)
        )
        rendered = that_fit(map(render_conversation, found))
        if len(rendered) < len(found):
            last = found[len(rendered) - 1]
            following = Place(last.create_time, last.conversation_id)
        next_token = ""
        if following is not None:
            next_token = encode_page_token(time_text(following[0]), following[1], fingerprint=fingerprint)
        return pb.ListConversationsResponse(conversations=rendered, next_page_token=next_token)

    async def UpdateConversation(
        self, request: pb.UpdateConversationRequest, context: grpc.aio.ServicerContext
    ) -> pb.UpdateConversationResponse:
        changed = await self._conversations.update(
            request.organization_id.lower(), request.conversation_id, read_update(request), request.etag
        )
        return pb.UpdateConversationResponse(conversation=render_conversation(changed))

    async def DeleteConversation(
        self, request: pb.DeleteConversationRequest, context: grpc.aio.ServicerContext
    ) -> pb.DeleteConversationResponse:
        left = await self._conversations.delete(request.organization_id.lower(), request.conversation_id, request.etag)
        return pb.DeleteConversationResponse(conversation=render_conversation(left))

    async def AppendMessage(
        self, request: pb.AppendMessageRequest, context: grpc.aio.ServicerContext
    ) -> pb.AppendMessageResponse:
        has_usage = request.HasField("usage")

        async def work(conversation: Conversation) -> Work:
            await self._usages.know_units(one.unit for one in request.usage.quantities)
            return read_work(request, conversation, self._usages)

        wanted = Appended(
            request.organization_id.lower(),
            request.conversation_id,
            request.operation_id,
            read_role(request.role),
            request.content if request.HasField("content") else None,
            request.model,
            read_start(request),
            request.usage.SerializeToString(deterministic=True) if has_usage else b"",
            work if has_usage else None,
        )
        try:
            added = await self._messages.append(wanted)
        except InvalidArgument as refusal:
            raise within_usage(refusal) from None
        response = pb.AppendMessageResponse(message=render_message(added.message, None), replayed=added.replayed)
        if added.work is not None and added.recorded is not None:
            recorded = render_accepted(added.recorded, added.work.adjusted, self._usages.units)
            response.recorded.CopyFrom(recorded)
        return response

    async def ListMessages(
        self, request: pb.ListMessagesRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListMessagesResponse:
        fingerprint = list_fingerprint(request)
        after = read_position(request, fingerprint)
        conversation = await self._conversations.get(request.organization_id.lower(), request.conversation_id)
        limit = page_size(request.page_size)
        found = await self._messages.page(
            conversation,
            after,
            newest_first=request.newest_first,
            with_content=not request.without_content,
            limit=limit,
        )
        rendered = that_fit(render_message(message, content) for message, content in found)
        token = ""
        if rendered:
            last = rendered[-1].position
            is_last = last == 1 if request.newest_first else last >= conversation.message_count
            token = "" if is_last else encode_page_token(str(last), fingerprint=fingerprint)
        return pb.ListMessagesResponse(messages=rendered, next_page_token=token)

    async def GetConversationStatistics(
        self, request: pb.GetConversationStatisticsRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetConversationStatisticsResponse:
        months = await self._statistics.months(
            request.organization_id.lower(), request.user_id.lower(), request.months or MONTHS_DEFAULT
        )
        return render_months(months)

    async def GetConversationPolicy(
        self, request: pb.GetConversationPolicyRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetConversationPolicyResponse:
        organization_id = request.organization_id.lower()
        policy = await self._policies.get(organization_id)
        return pb.GetConversationPolicyResponse(
            policy=render_policy(organization_id, policy, self._policies.retention_days)
        )

    async def UpdateConversationPolicy(
        self, request: pb.UpdateConversationPolicyRequest, context: grpc.aio.ServicerContext
    ) -> pb.UpdateConversationPolicyResponse:
        organization_id = request.organization_id.lower()
        new, fields = read_policy(request)
        policy = await self._policies.update(organization_id, new, fields, request.etag)
        return pb.UpdateConversationPolicyResponse(
            policy=render_policy(organization_id, policy, self._policies.retention_days)
        )
