"""Cached verification requests: byte-identical requests are recognised without storing the secret, and decided anew."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from services.identity.api_key.secret import new_secret
from services.identity.api_key.verify import questions
from services.identity.api_key.verify.questions import Questions, question_of
from tests.identity.support import Identity, open_identity
from tests.support.callers import Callers
from tests.support.clock import FixedClock
from tollhouse.identity.v1 import api_key_pb2 as pb


def test_question_is_found_by_its_bytes_alone_and_holds_no_secret() -> None:
    asked, secret = Questions(), new_secret(live=True)
    data = pb.VerifyApiKeyRequest(key=secret, model="swift-1").SerializeToString()
    question = question_of(b"digest", ["chat:write"], "swift-1", 7, "192.0.2.1")
    asked.remember(data, question)
    assert asked.find(data) == question
    assert asked.find(data + b"\x00") is None
    assert Questions().find(data) is None
    assert secret not in repr(question)


def test_oldest_question_goes_when_there_are_too_many() -> None:
    asked = Questions()
    for number in range(questions._QUESTIONS_MAX + 1):
        asked.remember(number.to_bytes(4), question_of(b"", [], "", 0, ""))
    assert asked.find((0).to_bytes(4)) is None
    assert asked.find((1).to_bytes(4)) is not None


async def test_question_asked_before_is_answered_by_what_is_true_now(identity: Identity) -> None:
    created = await identity.create_key()
    for _ in range(3):
        assert await identity.code(created.secret) == "VALID"
    other_model = pb.UpdateApiKeyRequest(
        organization_id=created.api_key.organization_id,
        api_key_id=created.api_key.api_key_id,
        allowed_models=["swift-1"],
    )
    other_model.update_mask.paths.append("allowed_models")
    assert await identity.code(created.secret, model="dear-1") == "VALID"
    revision = (await identity.api_keys.UpdateApiKey(other_model, metadata=identity.metadata)).revision
    assert await identity.code(created.secret, model="dear-1", min_revision=revision) == "MODEL_NOT_ALLOWED"
    assert await identity.code(created.secret, model="dear-1") == "MODEL_NOT_ALLOWED"
    assert await identity.code(created.secret) == "VALID"
    revision = await identity.revoke(created.api_key)
    assert await identity.code(created.secret, min_revision=revision) == "REVOKED"
    assert await identity.code(created.secret) == "REVOKED"


async def test_question_asked_before_does_not_outlive_the_key(
    callers: Callers, database_urls: dict[str, str], tmp_path: Path
) -> None:
    clock = FixedClock(datetime.now(UTC))
    # The caller's token must be issued at the time that the test's clock shows.
    async with open_identity(Callers(tmp_path, clock), database_urls["identity"], tmp_path, clock=clock) as identity:
        request = pb.CreateApiKeyRequest()
        request.expire_time.FromDatetime(clock.now() + timedelta(minutes=10))
        created = await identity.create_key(request)
        for _ in range(3):
            assert await identity.code(created.secret) == "VALID"
        clock.advance(timedelta(minutes=10))
        assert await identity.code(created.secret) == "EXPIRED"
