"""Damage to conversations is found, and a process that dies between the usage and its message leaves neither twice."""

from decimal import Decimal

import grpc
import pytest

from libs.common.clock import SystemClock
from libs.common.ids import new_id
from libs.common.integrity.verification import Verification
from libs.common.shards import Shards
from services.metering.conversation import message_store, store
from services.metering.conversation.messages import Messages
from services.metering.invariants import CHECKS
from tests.metering.conversations.calls import append, begin, charged, conversation, message, messages, penny, stub
from tests.metering.support import Metering, Platform, refused
from tests.support.invariants import findings_of
from tollhouse.metering.v1 import conversation_pb2 as pb

pytestmark = [pytest.mark.shards, pytest.mark.own_database]

PLANTED = {
    "conversations_add_up": 'UPDATE metering.conversations SET costs = \'{"USD": "0.03", "EUR": "1"}\'',
    "messages_have_their_usage": "UPDATE metering.conversation_messages SET cost = 0.02 WHERE usage_id IS NOT NULL",
    "message_counts_equal_messages": "UPDATE metering.conversation_months SET user_messages = user_messages + 1",
    "messages_are_in_order": "UPDATE metering.conversation_messages SET position = 7 WHERE position = 2",
}
LOST = {
    "messages_have_their_usage": "UPDATE metering.conversation_messages SET operation_id = 'other'",
    "message_counts_equal_messages": "DELETE FROM metering.conversation_months",
    "messages_are_in_order": "DELETE FROM metering.conversations",
}


@pytest.mark.parametrize("planted", [PLANTED, LOST], ids=["damaged", "lost"])
async def test_each_kind_of_damage_is_found(
    metering: Metering, metering_shards: Shards, organization_id: str, planted: dict[str, str], platform: Platform
) -> None:
    await begin(metering, organization_id, user_id=new_id())
    await append(metering, message(organization_id, usage=penny()))
    if planted is PLANTED:
        await append(metering, message(organization_id))
    await platform.settled()
    assert await metering.findings() == []
    fired = set()
    for statement in planted.values():
        await platform.execute(statement)
        fired |= {finding.split(" ")[0] for finding in await metering.findings()}
    assert fired >= set(planted)
    found = await findings_of(Verification(metering_shards, SystemClock(), CHECKS, rows_max=10_000))
    verification = Verification(metering_shards, SystemClock(), CHECKS, rows_max=1)
    assert await findings_of(verification) == found


class Died(Exception):
    """The process was killed, as far as its transaction can tell."""


async def die(*arguments: object, **options: object) -> None:
    raise Died


POINTS = {
    "after the usage": (Messages, "_add"),
    "before the message": (message_store, "add"),
    "between the message and its conversation": (store, "advance"),
}


@pytest.mark.parametrize("point", POINTS)
async def test_repeat_completes_what_was_killed_and_is_charged_once(
    platform: Platform, metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    await begin(metering, organization_id, model="gpt-4o")
    request = message(organization_id, usage=penny())
    request.ClearField("model")
    with monkeypatch.context() as patch:
        patch.setattr(*POINTS[point], die)
        code, _ = await refused(append(metering, request))
    assert code is grpc.StatusCode.INTERNAL
    assert await messages(metering, organization_id) == []
    assert await metering.findings() == []
    # The repeat means what was sent at first, also when the conversation has another model by now.
    update = pb.UpdateConversationRequest(organization_id=organization_id, conversation_id="c1", model="other")
    update.update_mask.paths.append("model")
    await stub(metering).UpdateConversation(update, metadata=metering.operator)
    answer = await append(metering, request)
    assert (answer.replayed, answer.recorded.replayed, answer.message.position) == (False, True, 1)
    again = await append(metering, request)
    assert (again.replayed, again.message.model, again.recorded.usage.model) == (True, "gpt-4o", "gpt-4o")
    await platform.settled()
    assert await charged(platform, organization_id) == Decimal("0.01")
    assert (await conversation(metering, organization_id)).message_count == 1
    assert await metering.findings() == []
