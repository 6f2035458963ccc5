"""What is asked before the work: an estimate that costs no time, from whatever an end user sends."""

from collections.abc import Mapping
from io import BytesIO

import grpc
import pytest

from services.metering.admission.hints import http_status_of
from tollhouse.metering.v1 import admission_pb2
from tollhouse_client.errors import InvalidArgument, TollhouseError, Unavailable, denied_of
from tollhouse_litellm import estimate
from tollhouse_litellm.bodies import error_of
from tollhouse_litellm.calls import Call, OpenCalls
from tollhouse_litellm.denials import http_error_of, http_error_of_key


def test_text_is_estimated_by_its_length_and_a_picture_by_a_number() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    content = [{"type": "text", "text": "x" * 3000}, picture]
    tokens = estimate.input_tokens({"messages": [{"role": "user", "content": content}]})
    assert 2600 < tokens < 2700


@pytest.mark.parametrize("text", ["", "\x00", "\ud800", "漢" * 10, "../" * 5])
def test_any_text_is_estimated(text: str) -> None:
    assert 0 <= estimate.input_tokens({"messages": [{"content": text}], "input": [text, [1, 2]]}) < 100


def test_deep_nesting_is_estimated() -> None:
    nested: object = "x"
    for _ in range(10_000):
        nested = [nested]
    assert estimate.input_tokens({"messages": nested}) > 0


@pytest.mark.parametrize(
    ("body", "most"),
    [
        ({}, None),
        ({"max_tokens": 100}, 100),
        ({"max_tokens": 100, "n": 3}, 300),
        ({"max_completion_tokens": 7, "max_tokens": 5}, 7),
        ({"max_tokens": "many", "n": -1}, None),
        ({"max_tokens": 10**30}, 1_000_000_000),
        ({"max_tokens": True}, None),
    ],
)
def test_output_of_all_choices_is_authorized(body: Mapping[str, object], most: int | None) -> None:
    assert estimate.max_output_tokens(body, "acompletion") == most


def test_maximum_that_the_route_drops_says_nothing() -> None:
    body = {"max_tokens": 1, "max_completion_tokens": 2, "max_output_tokens": 300}
    assert estimate.max_output_tokens(body, "aresponses") == 300
    assert estimate.max_output_tokens({"max_tokens": 1}, "aresponses") is None
    assert estimate.max_output_tokens({"max_output_tokens": 1}, "acompletion") is None


def test_embeddings_have_no_output() -> None:
    assert estimate.max_output_tokens({"max_tokens": 5}, "aembedding") == 0


@pytest.mark.parametrize(
    ("call_type", "body", "asked"),
    [
        ("arerank", {"documents": ["a"] * 101}, ("queries", 2)),
        ("arerank", {}, ("queries", 1)),
        ("aimage_generation", {"n": 3}, ("images", 3)),
        ("aspeech", {"input": "four"}, ("characters", 4)),
        ("atranscription", {"file": BytesIO(b"x" * 160_000)}, ("input_seconds", 10)),
        ("atranscription", {}, ("input_seconds", 1)),
        ("acompletion", {"n": 3}, None),
    ],
)
def test_work_that_is_not_sold_by_tokens_is_authorized_by_its_unit(
    call_type: str, body: Mapping[str, object], asked: tuple[str, int] | None
) -> None:
    assert estimate.other_unit(body, call_type) == asked


def _denial(name: str, **facts: str) -> TollhouseError:
    reason = admission_pb2.DenialReason.Value(f"DENIAL_REASON_{name}")
    denial = admission_pb2.Denial(reason=reason, message="No.", facts=facts)
    return denied_of(admission_pb2.AuthorizeResponse(decision=admission_pb2.DECISION_DENIED, denial=denial))


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("KEY_NOT_FOUND", 401),
        ("KEY_REVOKED", 401),
        ("KEY_OWNER_INACTIVE", 403),
        ("KEY_MODEL_NOT_ALLOWED", 403),
        ("KEY_ADDRESS_NOT_ALLOWED", 403),
        ("MODEL_UNKNOWN", 404),
        ("INSUFFICIENT_BALANCE", 402),
        ("ACCOUNT_CLOSED", 402),
        ("LIMIT_EXCEEDED", 429),
        ("SUBSCRIPTION_NOT_LIVE", 403),
    ],
)
def test_denials_have_the_status_that_clients_expect(reason: str, status: int) -> None:
    error = http_error_of(_denial(reason))
    assert (error.status, error.code, error.message) == (status, reason.lower(), "No.")


@pytest.mark.parametrize("name", [name for name in admission_pb2.DenialReason.keys() if "_KEY_" in name])
def test_key_is_refused_with_the_status_of_rest_before_the_call_and_within_it(name: str) -> None:
    reason = name.removeprefix("DENIAL_REASON_")
    within, before = http_error_of(_denial(reason)), http_error_of_key(reason.removeprefix("KEY_"))
    assert within.status == before.status == http_status_of(reason)
    assert (within.kind, within.code) == (before.kind, before.code)


@pytest.mark.parametrize("name", ["n", "best_of"])
@pytest.mark.parametrize("value", [0, -1, 129, 10**12, 2.0, 1e300, "3", True, [1], {}])
def test_count_of_answers_outside_1_to_128_is_refused(name: str, value: object) -> None:
    error = error_of({name: value})
    assert error is not None
    assert (error.status, error.kind, error.code) == (400, "invalid_request_error", f"{name}_out_of_range")


@pytest.mark.parametrize("body", [{"background": True}, {"background": "yes"}])
def test_answer_in_the_background_is_refused(body: Mapping[str, object]) -> None:
    error = error_of(body)
    assert error is not None
    assert (error.status, error.kind, error.code) == (400, "invalid_request_error", "background_not_metered")


@pytest.mark.parametrize(
    "name", ["fallbacks", "context_window_fallbacks", "context_window_fallback_dict", "content_policy_fallbacks"]
)
def test_fallbacks_of_an_end_user_are_refused(name: str) -> None:
    for fallbacks in (["gpt-5"], [{"model": "gpt-5", "n": 10**12}], [{"gpt-5-mini": ["gpt-5"]}]):
        for body in ({name: fallbacks}, {"router_settings_override": {name: fallbacks}}):
            error = error_of(body)
            assert error is not None
            assert (error.status, error.code) == (400, "fallbacks_not_metered")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("extra_body", value) for value in ({"model": "gpt-5"}, {"n": 2}, {"background": True}, '{"model":"gpt-5"}')),
        ("additional_drop_params", ["max_tokens"]),
        *((name, "gpt-5") for name in ("deployment_id", "model_id", "custom_llm_provider")),
        ("models", ["gpt-5"]),
        ("azure", True),
    ],
)
def test_field_that_replaces_what_is_authorized_is_refused(name: str, value: object) -> None:
    error = error_of({"model": "gpt-5-mini", name: value})
    assert error is not None
    assert (error.status, error.kind, error.code) == (400, "invalid_request_error", f"{name}_not_metered")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"fallbacks": []},
        {"n": 1},
        {"n": 128, "best_of": 128},
        {"n": None, "background": False},
        {"extra_body": {}, "additional_drop_params": []},
    ],
)
def test_usual_request_is_not_refused(body: Mapping[str, object]) -> None:
    assert error_of(body) is None


def test_every_denial_has_a_status() -> None:
    names = [name.removeprefix("DENIAL_REASON_") for name in admission_pb2.DenialReason.keys()]
    unmapped = {name for name in names if http_error_of(_denial(name)).status == 503}
    # The first is never sent, and the second has a cause of ours: the ids are new.
    assert unmapped == {"UNSPECIFIED", "AUTHORIZATION_ENDED"}


def test_limit_says_when_to_come_back_in_whole_seconds() -> None:
    assert http_error_of(_denial("LIMIT_EXCEEDED", retry_after_ms="1200")).headers == {"retry-after": "2"}


def test_faults_of_the_gateway_are_not_told_to_end_users() -> None:
    for error in (Unavailable("at 10.0.0.7"), TollhouseError("secret", code=grpc.StatusCode.PERMISSION_DENIED)):
        answer = http_error_of(error)
        assert (answer.status, answer.code) == (503, "metering_unavailable")
        assert error.message not in answer.message


def test_wrong_requests_are_400() -> None:
    assert http_error_of(InvalidArgument("model: too long")).status == 400


def test_mark_that_an_end_user_sends_finds_no_call() -> None:
    calls = OpenCalls()
    data: dict[str, object] = {"metadata": {"tollhouse_operation_id": "theirs"}, "litellm_metadata": {}}
    call = Call("ours", "organization", "gpt-5", "gpt-5", data)
    calls.add(call, data)
    assert calls.find(data) is call
    assert calls.find({"metadata": {"tollhouse_operation_id": "theirs"}}) is None
    assert calls.end(call)
    assert not calls.end(call)
    assert calls.find(data) is None
