"""`tollhouse conversation …`: conversations from the command line."""

from tests.system.commands import done, found, made, refused
from tests.system.installation import Installation, create_organization
from tollhouse.metering.v1 import conversation_pb2 as pb
from tollhouse.metering.v1 import conversation_pb2_grpc


async def test_conversations_are_listed_shown_and_deleted(installation: Installation) -> None:
    async with installation.connection().open() as channels:
        organization_id = await create_organization(channels)
        stub = conversation_pb2_grpc.ConversationServiceStub(channels.metering)
        await stub.AppendMessage(
            pb.AppendMessageRequest(
                organization_id=organization_id,
                conversation_id="c1",
                operation_id="m1",
                role=pb.MESSAGE_ROLE_USER,
                content="Why? \x1b[31m",
                begin=pb.ConversationStart(title="Cats"),
            )
        )
    (listed,) = found(installation, "conversation", "list", organization_id, "--title", "cat")
    assert (listed["conversation_id"], listed["message_count"]) == ("c1", "1")
    (shown,) = found(installation, "conversation", "show", organization_id, "c1")
    assert shown["content"] == "Why? \x1b[31m"
    assert "\x1b" not in done(installation, "conversation", "show", organization_id, "c1")
    refused(installation, 2, "conversation", "delete", organization_id, "c1")
    assert "1 messages" in done(installation, "conversation", "delete", organization_id, "c1", "--yes")
    left = made(installation, "conversation", "delete", organization_id, "c1", "--yes")
    assert left["title_state"] == "TEXT_STATE_DELETED"
    assert found(installation, "conversation", "list", organization_id) == []
    assert found(installation, "conversation", "list", organization_id, "--deleted", "--archived")
    (bare,) = found(installation, "conversation", "show", organization_id, "c1", "--without-content")
    assert "content" not in bare
    refused(installation, 1, "conversation", "show", organization_id, "c2")
