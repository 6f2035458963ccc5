"""A message and its usage are one: added once, charged once, in its place, whatever is repeated or comes at once."""

import asyncio
from decimal import Decimal

import grpc
import pytest

from libs.common.ids import new_id
from tests.metering.conversations.calls import (
    append,
    begin,
    charged,
    conversation,
    delete,
    listed,
    message,
    messages,
    penny,
    plain,
    stub,
)
from tests.metering.support import Metering, Platform, refused
from tests.metering.support import usage as plain_usage
from tollhouse.metering.v1 import conversation_pb2 as pb


@pytest.mark.shards
async def test_deleted_conversation_keeps_usage_costs_and_its_name(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    """Acceptance 14."""
    user_id = new_id()
    await begin(metering, organization_id, user_id=user_id, title="About cats")
    operations = [(await append(metering, message(organization_id, usage=penny()))).message for _ in range(3)]
    await platform.settled()
    assert await charged(platform, organization_id) == Decimal("0.03")
    left = await delete(metering, organization_id)
    assert (left.title, left.title_state, left.message_count) == ("", pb.TEXT_STATE_DELETED, 3)
    assert plain(left.costs) == {"USD": "0.03"}
    again = await conversation(metering, organization_id)
    assert again == left
    assert again.HasField("delete_time")
    found = await messages(metering, organization_id)
    assert [(one.position, one.cost.value) for one in found] == [(1, "0.01"), (2, "0.01"), (3, "0.01")]
    assert {(one.HasField("content"), one.content_state) for one in found} == {(False, pb.TEXT_STATE_DELETED)}
    for one in operations:
        assert (await metering.get(organization_id, one.operation_id)).conversation_id == "c1"
    assert await charged(platform, organization_id) == Decimal("0.03")
    assert await listed(metering, organization_id) == []
    assert await listed(metering, organization_id, show_deleted=True) == ["c1"]
    statistics = await stub(metering).GetConversationStatistics(
        pb.GetConversationStatisticsRequest(organization_id=organization_id, user_id=user_id, months=2),
        metadata=metering.operator,
    )
    assert [(one.messages, one.assistant_messages, plain(one.costs)) for one in statistics.months] == [
        (0, 0, {}),
        (3, 3, {"USD": "0.03"}),
    ]
    assert await metering.findings() == []


async def test_repeat_gives_the_stored_message_and_charges_nothing(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await begin(metering, organization_id)
    request = message(organization_id, usage=penny())
    first, second = await append(metering, request), await append(metering, request)
    assert (first.replayed, second.replayed) == (False, True)
    assert second.message == first.message
    assert second.recorded.usage.usage_id == first.recorded.usage.usage_id == first.message.usage_id
    assert len(await messages(metering, organization_id)) == 1
    await platform.settled()
    assert await charged(platform, organization_id) == Decimal("0.01")


CHANGES = {
    "content": {"content": "Other."},
    "role": {"role": pb.MESSAGE_ROLE_TOOL},
    "conversation_id": {"conversation_id": "c2"},
    "model or usage": {"usage": pb.MessageUsage(items=2)},
}


@pytest.mark.parametrize("field", CHANGES)
async def test_repeat_with_another_field_is_refused_by_name(
    metering: Metering, organization_id: str, field: str
) -> None:
    await begin(metering, organization_id)
    await begin(metering, organization_id, "c2")
    request = message(organization_id, usage=penny())
    await append(metering, request)
    request.MergeFrom(pb.AppendMessageRequest(**CHANGES[field]))  # type: ignore[arg-type]
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await append(metering, request)
    assert f"differs in {field}." in str(refusal.value.details())
    assert (await conversation(metering, organization_id)).message_count == 1


@pytest.mark.shards
async def test_messages_that_come_at_once_have_places_without_gaps_and_are_charged_once(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await begin(metering, organization_id)
    requests = [message(organization_id, usage=penny()) for _ in range(50)]
    answers = await asyncio.gather(*(append(metering, one) for one in [*requests, *requests[:10]]))
    assert sorted(one.message.position for one in answers[:50]) == list(range(1, 51))
    assert [one.message.position for one in answers[50:]] == [one.message.position for one in answers[:10]]
    found = await conversation(metering, organization_id)
    assert (found.message_count, plain(found.costs)) == (50, {"USD": "0.5"})
    await platform.settled()
    assert await charged(platform, organization_id) == Decimal("0.5")
    assert await metering.findings() == []


async def test_message_of_a_missing_conversation_is_refused_before_anything_is_charged(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    code, _ = await refused(append(metering, message(organization_id, usage=penny())))
    assert code is grpc.StatusCode.NOT_FOUND
    assert await charged(platform, organization_id) == 0


async def test_conversation_is_begun_for_one_user_and_project(metering: Metering, organization_id: str) -> None:
    start = pb.ConversationStart(user_id=new_id(), project_id=new_id())
    await append(metering, message(organization_id, begin=start))
    await append(metering, message(organization_id, begin=start))
    other = pb.ConversationStart(user_id=new_id(), project_id=start.project_id)
    code, reason = await refused(append(metering, message(organization_id, begin=other)))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONVERSATION_OF_ANOTHER")
    assert (await conversation(metering, organization_id)).message_count == 2


async def test_deleted_conversation_takes_messages_of_work_that_is_done(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await begin(metering, organization_id)
    await delete(metering, organization_id)
    code, _ = await refused(append(metering, message(organization_id)))
    assert code is grpc.StatusCode.NOT_FOUND
    answer = await append(metering, message(organization_id, usage=penny()))
    assert answer.message.content_state == pb.TEXT_STATE_DELETED
    await platform.settled()
    assert await charged(platform, organization_id) == Decimal("0.01")
    kept = "SELECT count(*) FROM metering.conversation_messages WHERE content IS NOT NULL AND organization_id = $1"
    assert await platform.value(kept, organization_id) == 0


async def test_usage_that_is_refused_adds_no_message_and_names_its_fields(
    metering: Metering, organization_id: str
) -> None:
    await begin(metering, organization_id)
    request = message(organization_id)
    request.usage.quantities.add(unit="no_such_unit", value="1")
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await append(metering, request)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "usage.quantities" in str(refusal.value.trailing_metadata())
    unnamed = message(organization_id, usage=penny())
    unnamed.model = ""
    code, _ = await refused(append(metering, unnamed))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert (await conversation(metering, organization_id)).message_count == 0


async def test_usage_recorded_under_the_operation_by_others_is_not_taken_for_the_message_s(
    metering: Metering, organization_id: str
) -> None:
    await begin(metering, organization_id)
    await metering.record(plain_usage(organization_id, "call"))
    code, reason = await refused(append(metering, message(organization_id, operation_id="call", usage=penny())))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "OPERATION_ID_REUSED")
    assert (await conversation(metering, organization_id)).message_count == 0


async def test_role_that_does_not_exist_is_refused(metering: Metering, organization_id: str) -> None:
    await begin(metering, organization_id)
    for role in (0, 9):
        request = message(organization_id)
        request.role = role  # type: ignore[assignment]
        code, _ = await refused(append(metering, request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_pages_go_both_ways_and_end_where_their_contents_are_too_large(
    metering: Metering, organization_id: str
) -> None:
    await begin(metering, organization_id)
    for number in range(4):
        await append(metering, message(organization_id, content=str(number) * 900_000))
    request = pb.ListMessagesRequest(organization_id=organization_id, conversation_id="c1")
    page = await stub(metering).ListMessages(request, metadata=metering.operator)
    assert [one.position for one in page.messages] == [1, 2]
    assert page.next_page_token
    assert [one.content[0] for one in await messages(metering, organization_id)] == ["0", "1", "2", "3"]
    newest = await messages(metering, organization_id, newest_first=True, page_size=1)
    assert [one.position for one in newest] == [4, 3, 2, 1]
    bare = await stub(metering).ListMessages(
        pb.ListMessagesRequest(organization_id=organization_id, conversation_id="c1", without_content=True),
        metadata=metering.operator,
    )
    assert [one.HasField("content") for one in bare.messages] == [False] * 4
    assert not bare.next_page_token
