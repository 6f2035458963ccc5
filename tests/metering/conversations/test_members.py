"""Members see and change their own conversations, administrators all, and nobody learns of those of others."""

from decimal import Decimal
from typing import NamedTuple

import grpc
import pytest

from libs.common.ids import new_id
from tests.metering.conversations.calls import append, charged, conversation, message, stub
from tests.metering.support import Metering, Platform, refused
from tollhouse.identity.v1 import api_key_pb2, organization_pb2
from tollhouse.metering.v1 import admission_pb2
from tollhouse.metering.v1 import conversation_pb2 as pb

Metadata = tuple[tuple[str, str], ...]
SCOPES = ("tollhouse:conversations.read", "tollhouse:conversations.write")


class Person(NamedTuple):
    user_id: str
    metadata: Metadata


class Company(NamedTuple):
    organization_id: str
    owner: Person
    ada: Person
    bob: Person


@pytest.fixture
async def company(platform: Platform) -> Company:
    """An organization with an owner and two members, each with a key."""
    identity = await platform.start_identity()
    organization_id, owner_id = await identity.create_organization()

    async def person(user_id: str) -> Person:
        key = await identity.create_key(
            api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, user_id=user_id, scopes=SCOPES)
        )
        return Person(user_id, (("authorization", f"Bearer {key.secret}"),))

    async def member() -> Person:
        user = await identity.create_user()
        await identity.organizations.AddMember(
            organization_pb2.AddMemberRequest(
                organization_id=organization_id, user_id=user.user_id, role=organization_pb2.MEMBER_ROLE_MEMBER
            ),
            metadata=identity.metadata,
        )
        return await person(user.user_id)

    return Company(organization_id, await person(owner_id), await member(), await member())


async def begun(metering: Metering, company: Company, person: Person, request_id: str = "first") -> pb.Conversation:
    request = pb.CreateConversationRequest(
        organization_id=company.organization_id, user_id=person.user_id, request_id=request_id, title="Mine"
    )
    return (await stub(metering).CreateConversation(request, metadata=person.metadata)).conversation


async def test_members_reach_their_own_conversations_and_administrators_all(
    metering: Metering, company: Company
) -> None:
    mine = await begun(metering, company, company.ada)
    assert await begun(metering, company, company.ada) == mine
    theirs = await begun(metering, company, company.bob)
    assert theirs.conversation_id != mine.conversation_id
    key = company.organization_id, mine.conversation_id
    assert await conversation(metering, *key, company.ada.metadata) == mine
    assert await conversation(metering, *key, company.owner.metadata) == mine
    update = pb.UpdateConversationRequest(organization_id=key[0], conversation_id=key[1], title="Ours", archived=True)
    update.update_mask.paths.extend(["title", "archived"])
    changed = await stub(metering).UpdateConversation(update, metadata=company.ada.metadata)
    assert (changed.conversation.title, changed.conversation.archived) == ("Ours", True)
    everything = pb.ListConversationsRequest(organization_id=key[0], show_archived=True)
    assert len((await stub(metering).ListConversations(everything, metadata=company.owner.metadata)).conversations) == 2
    code, _ = await refused(stub(metering).ListConversations(everything, metadata=company.ada.metadata))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    own = pb.ListConversationsRequest(organization_id=key[0], user_id=company.ada.user_id, show_archived=True)
    listed = (await stub(metering).ListConversations(own, metadata=company.ada.metadata)).conversations
    assert [one.conversation_id for one in listed] == [key[1]]


async def test_conversation_of_another_member_looks_like_a_missing_one(metering: Metering, company: Company) -> None:
    mine = await begun(metering, company, company.ada)
    outcomes = []
    for conversation_id in (mine.conversation_id, new_id()):
        key = company.organization_id, conversation_id
        update = pb.UpdateConversationRequest(organization_id=key[0], conversation_id=key[1], title="Stolen")
        update.update_mask.paths.append("title")
        outcomes.append(
            [
                await refused(call)
                for call in (
                    stub(metering).GetConversation(
                        pb.GetConversationRequest(organization_id=key[0], conversation_id=key[1]),
                        metadata=company.bob.metadata,
                    ),
                    stub(metering).ListMessages(
                        pb.ListMessagesRequest(organization_id=key[0], conversation_id=key[1]),
                        metadata=company.bob.metadata,
                    ),
                    stub(metering).UpdateConversation(update, metadata=company.bob.metadata),
                    stub(metering).DeleteConversation(
                        pb.DeleteConversationRequest(organization_id=key[0], conversation_id=key[1]),
                        metadata=company.bob.metadata,
                    ),
                )
            ]
        )
    assert outcomes[0] == outcomes[1] == [(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")] * 4
    assert await conversation(metering, company.organization_id, mine.conversation_id) == mine


async def test_member_begins_nothing_in_the_name_of_others_and_charges_nothing(
    metering: Metering, company: Company
) -> None:
    denied = grpc.StatusCode.PERMISSION_DENIED
    for fields, due in (
        ({"user_id": company.bob.user_id, "request_id": "r"}, denied),
        ({"request_id": "r"}, denied),
        ({"user_id": company.ada.user_id, "request_id": "r", "project_id": new_id()}, denied),
        ({"user_id": company.ada.user_id, "conversation_id": "chosen"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"user_id": company.ada.user_id}, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        request = pb.CreateConversationRequest(organization_id=company.organization_id, **fields)
        code, _ = await refused(stub(metering).CreateConversation(request, metadata=company.ada.metadata))
        assert code is due
    code, _ = await refused(
        stub(metering).AppendMessage(message(company.organization_id), metadata=company.ada.metadata)
    )
    assert code is denied
    policy = pb.UpdateConversationPolicyRequest(organization_id=company.organization_id)
    policy.update_mask.paths.append("keep_content")
    code, _ = await refused(stub(metering).UpdateConversationPolicy(policy, metadata=company.ada.metadata))
    assert code is denied


async def test_another_organization_s_conversation_looks_like_a_missing_one(
    platform: Platform, metering: Metering, company: Company
) -> None:
    mine = await begun(metering, company, company.ada)
    other = await platform.identity.create_key(api_key_pb2.CreateApiKeyRequest(scopes=SCOPES))
    metadata = (("authorization", f"Bearer {other.secret}"),)
    for organization_id in (company.organization_id, new_id(), other.api_key.organization_id):
        request = pb.GetConversationRequest(organization_id=organization_id, conversation_id=mine.conversation_id)
        code, _ = await refused(stub(metering).GetConversation(request, metadata=metadata))
        assert code is grpc.StatusCode.NOT_FOUND


async def test_message_settles_the_call_that_was_authorized(platform: Platform, metering: Metering) -> None:
    identity = await platform.start_identity()
    key = await identity.create_key()
    organization_id, user_id = key.api_key.organization_id, key.api_key.user_id
    await platform.fund(organization_id, "10")
    decision = await metering.authorize(
        admission_pb2.AuthorizeRequest(
            operation_id="call", api_key=key.secret, model="gpt-4o", input_tokens=1000, max_output_tokens=100
        )
    )
    assert decision.decision == admission_pb2.DECISION_ALLOWED
    request = message(
        organization_id, operation_id="call", begin=pb.ConversationStart(user_id=user_id, title="Begun by its message")
    )
    request.usage.tokens.input, request.usage.tokens.output = 1000, 100
    answer = await append(metering, request)
    assert answer.recorded.usage.cost.value == "0.0035"
    await platform.settled()
    assert await charged(platform, organization_id) == Decimal("0.0035")
    (held,) = await metering.authorizations(organization_id)
    assert held.state == admission_pb2.AUTHORIZATION_STATE_SETTLED
    assert (await conversation(metering, organization_id)).title == "Begun by its message"
