"""Contents are kept as the organization and the platform say, encrypted where there is a key, and they leave."""

import json
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from libs.common.clock import SystemClock
from libs.common.ids import new_id
from libs.common.shards import Shards
from services.metering.conversation import message_store
from services.metering.conversation.erasure import forget_user
from services.metering.conversation.retention import Retention
from tests.metering.conversations.calls import (
    append,
    begin,
    conversation,
    delete,
    listed,
    message,
    messages,
    penny,
    set_policy,
    stub,
)
from tests.metering.support import Metering, Platform, refused
from tests.support.clock import ShiftedClock
from tests.support.secrecy import WATCH
from tollhouse.metering.v1 import conversation_pb2 as pb

KEYS = {str(version): bytes([version] * 32).hex() for version in (1, 2)}
STORED = "SELECT content FROM metering.conversation_messages WHERE organization_id = $1 AND position = $2"
HOSTILE = '\' OR 1=1; -- " \\ ../../etc/passwd \x01\x7f‮ 🐈 {"a": null} <script> %00 $1'


async def contents(metering: Metering, organization_id: str, **fields: object) -> list[str | None]:
    found = await messages(metering, organization_id, **fields)  # type: ignore[arg-type]  # Of a request.
    return [one.content if one.HasField("content") else None for one in found]


async def restart(platform: Platform, **keys: str) -> Metering:
    """Start another process of metering, with these keys."""
    path = platform.folder / f"conversation-keys-{new_id()}.json"
    path.write_text(json.dumps(keys))
    platform.conversation_keys_file = path if keys else None
    return await platform.start_metering()


async def test_any_text_comes_back_as_it_was_sent_and_only_nul_is_refused(
    metering: Metering, organization_id: str
) -> None:
    await begin(metering, organization_id)
    for content in ("", HOSTILE, "x" * 1_000_000):
        await append(metering, message(organization_id, content=content))
    silent = message(organization_id)
    silent.ClearField("content")
    await append(metering, silent)
    assert await contents(metering, organization_id) == ["", HOSTILE, "x" * 1_000_000, None]
    for content in ("a\0b", "x" * 1_000_001, "🐈" * 999_999):
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await append(metering, message(organization_id, content=content))
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    surrogate = pb.AppendMessageRequest.SerializeToString(message(organization_id, content="LONE"))
    raw: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = metering.channel.unary_unary(
        "/tollhouse.metering.v1.ConversationService/AppendMessage"
    )
    broken = surrogate.replace(b"LONE", b"\xed\xa0\x80!")
    code, _ = await refused(raw(broken, metadata=metering.operator))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert (await conversation(metering, organization_id)).message_count == 4


@pytest.mark.own_database
async def test_content_is_encrypted_with_the_newest_key_and_bound_to_its_place(
    platform: Platform, organization_id: str
) -> None:
    first = await restart(platform, **{"1": KEYS["1"]})
    await begin(first, organization_id)
    await append(first, message(organization_id, content="the old secret"))
    rotated = await restart(platform, **KEYS)
    request = message(organization_id, content="the new secret")
    await append(rotated, request)
    assert await contents(rotated, organization_id) == ["the old secret", "the new secret"]
    for position in (1, 2):
        stored = await platform.value(STORED, organization_id, position)
        assert isinstance(stored, bytes)
        assert b"secret" not in stored
        assert stored[:2] == position.to_bytes(2, "big")
    assert (await append(rotated, request)).replayed
    swap = "UPDATE metering.conversation_messages SET content = $2, key_version = 1 WHERE organization_id = $1"
    await platform.execute(swap, organization_id, await platform.value(STORED, organization_id, 1))
    assert await refused(contents(rotated, organization_id, page_size=2)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "CONTENT_NOT_READABLE",
    )


@pytest.mark.own_database
async def test_missing_key_is_a_refusal_and_messages_are_listed_without_contents(
    platform: Platform, organization_id: str
) -> None:
    first = await restart(platform, **{"1": KEYS["1"]})
    await begin(first, organization_id)
    request = message(organization_id, content="unreadable", usage=penny())
    await append(first, request)
    bare = first
    for keys in ({"2": KEYS["2"]}, {}):
        bare = await restart(platform, **keys)
        for call in (contents(bare, organization_id), append(bare, request)):
            assert await refused(call) == (grpc.StatusCode.FAILED_PRECONDITION, "CONTENT_NOT_READABLE")
        assert await contents(bare, organization_id, without_content=True) == [None]
    assert (await delete(bare, organization_id)).message_count == 1
    assert await contents(bare, organization_id) == [None]


async def test_organization_without_contents_keeps_quantities_alone(metering: Metering, organization_id: str) -> None:
    await begin(metering, organization_id, title="Kept")
    policy = await set_policy(metering, organization_id, keep_content=False)
    assert (policy.keep_content, policy.etag) == (False, "1")
    request = message(organization_id, usage=penny())
    assert (await append(metering, request)).message.content_state == pb.TEXT_STATE_NOT_KEPT
    assert (await append(metering, request)).replayed
    bare = await begin(metering, organization_id, "c2", title="Dropped")
    assert (bare.title, bare.title_state) == ("", pb.TEXT_STATE_NOT_KEPT)
    (found,) = await messages(metering, organization_id)
    assert (found.HasField("content"), found.tokens.input, found.cost.value) == (False, 1000, "0.01")
    await set_policy(metering, organization_id, keep_content=True)
    await append(metering, message(organization_id, content="kept"))
    assert await contents(metering, organization_id) == [None, "kept"]


async def test_change_of_the_policy_is_audited_and_compares_etags(metering: Metering, organization_id: str) -> None:
    await set_policy(metering, organization_id, retention_days=30)
    stale = pb.UpdateConversationPolicyRequest(organization_id=organization_id, etag="9", retention_days=1)
    stale.update_mask.paths.append("retention_days")
    code, reason = await refused(stub(metering).UpdateConversationPolicy(stale, metadata=metering.operator))
    assert (code, reason) == (grpc.StatusCode.ABORTED, "STALE_ETAG")
    for paths in ([], ["etag"]):
        wrong = pb.UpdateConversationPolicyRequest(organization_id=organization_id)
        wrong.update_mask.paths.extend(paths)
        code, _ = await refused(stub(metering).UpdateConversationPolicy(wrong, metadata=metering.operator))
        assert code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.shards
async def test_contents_and_titles_expire_and_counts_stay(
    platform: Platform, metering: Metering, metering_shards: Shards
) -> None:
    """The organization's own days come before the platform's; without either, contents are kept."""
    soon, late, never = new_id(), new_id(), new_id()
    for organization_id in (soon, late, never):
        await begin(metering, organization_id, title="A title", user_id=new_id())
        await append(metering, message(organization_id, usage=penny()))
    await set_policy(metering, soon, retention_days=10)
    await set_policy(metering, never, retention_days=3650)
    clock = ShiftedClock()
    clock.advance(timedelta(days=20))
    for days in (0, 15):
        for database in metering_shards:
            await Retention(metering_shards, clock, retention_days=days).tidy(database)
        gone = [one for one in (soon, late, never) if await contents(metering, one) == [None]]
        assert gone == ([soon] if days == 0 else [soon, late])
    for organization_id in (soon, late):
        left = await conversation(metering, organization_id)
        assert (left.title_state, left.message_count, left.costs[0].value) == (pb.TEXT_STATE_EXPIRED, 1, "0.01")
        (expired,) = await messages(metering, organization_id)
        assert expired.content_state == pb.TEXT_STATE_EXPIRED
        assert await listed(metering, organization_id, title="title") == []
    assert await metering.findings() == []


@pytest.mark.shards
async def test_texts_of_a_person_go_and_those_of_others_stay(
    metering: Metering, metering_shards: Shards, organization_id: str
) -> None:
    ada, bob = new_id(), new_id()
    for name, user_id in (("a1", ada), ("a2", ada), ("b1", bob)):
        await begin(metering, organization_id, name, user_id=user_id, title=f"Title {name}")
        for _ in range(2):
            await append(metering, message(organization_id, name, usage=penny()))
    database = metering_shards.of(organization_id)
    for _ in range(2):
        assert await forget_user(database, organization_id, ada, SystemClock().now()) == 2
    assert await listed(metering, organization_id, title="TITLE") == ["b1"]
    for name in ("a1", "a2"):
        assert await contents(metering, organization_id, conversation_id=name) == [None, None]
    assert await contents(metering, organization_id, conversation_id="b1") == ["Hello.", "Hello."]
    assert await metering.findings() == []


async def test_deletion_that_was_killed_shows_nothing_and_is_finished(
    metering: Metering, metering_shards: Shards, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(metering, organization_id)
    for _ in range(3):
        await append(metering, message(organization_id))
    with monkeypatch.context() as patch:

        async def die(*arguments: object) -> None:
            raise KeyError

        patch.setattr(message_store, "empty", die)
        code, _ = await refused(delete(metering, organization_id))
    assert code is grpc.StatusCode.INTERNAL
    assert await contents(metering, organization_id) == [None] * 3
    kept = "SELECT count(*) FROM conversation_messages WHERE organization_id = $1::text::uuid AND content IS NOT NULL"
    database = metering_shards.of(organization_id)
    async with database.raw_connection() as connection:
        assert await connection.fetchval(kept, organization_id) == 3
    await Retention(metering_shards, SystemClock(), retention_days=0).tidy(database)
    async with database.raw_connection() as connection:
        assert await connection.fetchval(kept, organization_id) == 0


@pytest.mark.own_database
async def test_file_that_holds_no_keys_is_refused_when_the_service_starts(platform: Platform, tmp_path: Path) -> None:
    WATCH.note("00ff" * 8)
    path = tmp_path / "keys.json"
    path.write_text('{"1": "' + "00ff" * 8 + '"}')
    platform.conversation_keys_file = path
    with pytest.raises(ValueError, match="each of 32 bytes"):
        await platform.start_metering()
