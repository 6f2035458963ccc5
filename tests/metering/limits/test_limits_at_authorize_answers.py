"""What Authorize tells of limits: which ones are in force for a call, where they stand, and hints for HTTP.

A call of `ask` is for 1,000 input and 1,000 output tokens, for which 0.0125 dollars are held.
"""

from datetime import timedelta
from decimal import Decimal
from hashlib import blake2b

import grpc
import pytest

from libs.common.ids import new_id
from libs.common.status import error_info
from services.metering.admission.domain import Ask, Denied, differing_field
from services.metering.admission.hints import LIMITS_MAX, hints_of
from services.metering.admission.limits import decide
from services.metering.quota.decisions import Standing, place_of, take_of
from services.metering.quota.domain import (
    Amounts,
    Applied,
    Enforcement,
    Limit,
    Scope,
    Shape,
    Terms,
    Window,
)
from tests.metering.limits.support import begin_minute, reserved, set_limit
from tests.metering.support import Metering, Platform
from tests.metering.test_batch_admission import ALLOWED, DENIED, ask, ends
from tests.support.clock import DEFAULT_NOW, ShiftedClock
from tollhouse.metering.v1 import admission_pb2


async def hints(metering: Metering, request: admission_pb2.AuthorizeRequest) -> dict[str, str]:
    """Return what is in the metadata of an answer for HTTP."""
    call = metering.admission.Authorize(request, metadata=metering.gateway)
    await call
    told = {str(key): str(value) for key, value in await call.trailing_metadata() or ()}
    return {key: told[key] for key in ("retry-after", "ratelimit-policy", "ratelimit") if key in told}


async def test_soft_and_shadow_limits_count_and_pass_and_say_that_they_are_exceeded(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    limits = [
        await set_limit(platform, organization_id, "shadow", "1", enforcement=Enforcement.SHADOW),
        await set_limit(platform, organization_id, "soft", "1", enforcement=Enforcement.SOFT),
        await set_limit(platform, organization_id, "hard", "3"),
    ]

    outcomes = await metering.authorize_batch([ask(organization_id, f"call-{number}") for number in range(4)])

    assert ends(outcomes) == ["ALLOWED"] * 3 + ["LIMIT_EXCEEDED"]
    third = {one.name: (one.remaining, one.exceeded) for one in outcomes[2].decided.limits}
    assert third == {"hard": ("0", False), "shadow": ("0", True), "soft": ("0", True)}
    assert outcomes[3].decided.denial.facts["limit"] == "hard"
    assert await reserved(platform, organization_id, *limits) == [3, 3, 3]


def test_calls_that_a_limit_in_shadow_mode_would_refuse_are_told_by_its_metric() -> None:
    shape = Shape("items", "", Window.LIFETIME, False, "", 0, Scope.ORGANIZATION, "", "")
    limit = Limit(new_id(), "shadow", shape, Terms(Decimal(3), Enforcement.SHADOW))
    place = place_of(limit, "", DEFAULT_NOW)
    takes = [take_of(Applied(limit, ""), place, Amounts({}, 0, items=count)) for count in (2, 2, 0)]

    standing = Standing()

    said = decide([("o", [take]) for take in takes], {"o": {place.counter.counter_id: standing}}, DEFAULT_NOW)

    assert [one.in_shadow for one in said] == [[], ["items"], []]
    assert standing.reserved == 4


@pytest.mark.parametrize(
    ("scope", "field"),
    [
        (Scope.PROJECT, "project_id"),
        (Scope.USER, "user_id"),
        (Scope.SERVICE_ACCOUNT, "service_account_id"),
        (Scope.API_KEY, "api_key_id"),
    ],
)
async def test_limit_that_each_has_for_itself_counts_each_by_itself(
    platform: Platform, metering: Metering, organization_id: str, scope: Scope, field: str
) -> None:
    await platform.fund(organization_id)
    limit = await set_limit(platform, organization_id, "each", "1", scope=scope)
    owners = [new_id(), new_id()]
    asks = [ask(organization_id, f"call-{number}") for number in range(5)]
    for number, request in enumerate(asks[:4]):
        setattr(request.principal, field, owners[number % 2].upper())

    outcomes = await metering.authorize_batch(asks)

    assert ends(outcomes) == ["ALLOWED"] * 2 + ["LIMIT_EXCEEDED"] * 2 + ["ALLOWED"]
    assert [one.decided.limits[0].scope_value for one in outcomes[:4]] == owners * 2
    assert outcomes[2].decided.denial.facts["scope_value"] == owners[0]
    assert not outcomes[4].decided.limits
    assert await reserved(platform, organization_id, limit) == [2]


async def test_limits_on_a_model_a_provider_or_a_label_count_the_calls_of_these_alone(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    await metering.add_model("claude", provider="anthropic")
    await metering.set_price("claude")
    await set_limit(platform, organization_id, "model", "1", scope=Scope.MODEL, scope_value="gpt-4o")
    await set_limit(platform, organization_id, "provider", "1", scope=Scope.PROVIDER, scope_value="anthropic")
    await set_limit(platform, organization_id, "team", "1", scope=Scope.LABEL, label="team", scope_value="red")

    def names(outcome: admission_pb2.AuthorizeOutcome) -> list[str]:
        return [one.name for one in outcome.decided.limits]

    outcomes = await metering.authorize_batch(
        [
            ask(organization_id, "gpt", labels={"team": "blue"}),
            ask(organization_id, "claude", model="claude", labels={"team": "red", "other": "red"}),
            ask(organization_id, "claude-again", model="claude"),
            ask(organization_id, "gpt-again", labels={"team": "red"}),
        ]
    )

    assert ends(outcomes) == ["ALLOWED"] * 2 + ["LIMIT_EXCEEDED"] * 2
    assert [names(one) for one in outcomes] == [["model"], ["provider", "team"], ["provider"], ["model", "team"]]


async def test_narrower_limit_that_replaces_lets_a_caller_use_more_than_the_wider_one(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    vip = new_id()
    await set_limit(platform, organization_id, "everybody", "1", scope=Scope.USER)
    await set_limit(platform, organization_id, "all-together", "2")
    await set_limit(platform, organization_id, "vip", "9", scope=Scope.USER, scope_value=vip, replaces=True)
    principal = admission_pb2.Principal(organization_id=organization_id, user_id=vip)

    outcomes = await metering.authorize_batch(
        [ask(organization_id, f"call-{number}", principal=principal) for number in range(3)]
    )

    assert ends(outcomes) == ["ALLOWED", "LIMIT_EXCEEDED", "LIMIT_EXCEEDED"]
    assert [one.name for one in outcomes[0].decided.limits] == ["everybody", "vip"]


async def test_limit_of_single_calls_refuses_the_large_ones_and_counts_nothing(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    limit = await set_limit(platform, organization_id, "large", "1500", metric="total_tokens", window=Window.CALL)

    outcomes = await metering.authorize_batch(
        [
            ask(organization_id, "a", max_output_tokens=500),
            ask(organization_id, "b"),
            ask(organization_id, "c", max_output_tokens=1),
        ]
    )

    assert ends(outcomes) == ["ALLOWED", "LIMIT_EXCEEDED", "ALLOWED"]
    assert not outcomes[1].decided.limits[0].HasField("retry_after")
    assert await reserved(platform, organization_id, limit) == [0]


async def test_sliding_limit_forgets_what_was_used_one_step_after_its_length(
    platform: Platform, metering: Metering, organization_id: str, clock: ShiftedClock
) -> None:
    await platform.fund(organization_id)
    await set_limit(platform, organization_id, "sliding", "2", window=Window.MINUTE, sliding=True)
    begin_minute(clock)
    await metering.authorize(ask(organization_id, "a"))
    clock.advance(timedelta(seconds=30))
    await metering.authorize(ask(organization_id, "b"))

    refused = await metering.authorize(ask(organization_id, "c"))
    wait = refused.limits[0].retry_after.ToTimedelta()
    assert (refused.decision, refused.limits[0].remaining) == (DENIED, "0")
    assert timedelta(seconds=20) < wait <= timedelta(seconds=31)
    clock.advance(wait)

    passed = await metering.authorize(ask(organization_id, "c"))
    assert (passed.decision, passed.limits[0].remaining) == (ALLOWED, "0")


async def test_burst_lets_a_window_use_what_the_one_before_left(
    platform: Platform, metering: Metering, organization_id: str, clock: ShiftedClock
) -> None:
    await platform.fund(organization_id)
    begin_minute(clock)
    await set_limit(platform, organization_id, "burst", "3", window=Window.MINUTE, burst="2")
    first = await metering.authorize_batch([ask(organization_id, f"a-{number}") for number in range(2)])
    begin_minute(clock)
    second = await metering.authorize_batch([ask(organization_id, f"b-{number}") for number in range(6)])
    begin_minute(clock)
    third = await metering.authorize_batch([ask(organization_id, f"c-{number}") for number in range(4)])

    # Nothing was used before the first window. One of three was left in it, and nothing in the second one.
    assert {one.decided.limits[0].max for one in first} == {"5"}
    assert ends(second) == ["ALLOWED"] * 4 + ["LIMIT_EXCEEDED"] * 2
    assert ends(third) == ["ALLOWED"] * 3 + ["LIMIT_EXCEEDED"]
    assert {one.decided.limits[0].max for one in third} == {"3"}


async def test_call_may_use_its_estimate_its_quantities_and_its_items(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    metrics = [
        "cache_read_tokens",
        "input_tokens",
        "items",
        "output_tokens",
        "pages",
        "reasoning_tokens",
        "total_tokens",
    ]
    for metric in metrics:
        await set_limit(platform, organization_id, metric, "1000000", metric=metric)
    spend = await set_limit(platform, organization_id, "usd", "9", metric="spend", currency_code="USD")
    await set_limit(platform, organization_id, "eur", "9", metric="spend", currency_code="EUR")
    by_class = admission_pb2.AuthorizeRequest(
        operation_id="by-class", principal=admission_pb2.Principal(organization_id=organization_id), model="gpt-4o"
    )
    by_class.estimate.input, by_class.estimate.cache_read, by_class.estimate.output = 100, 20, 3
    by_class.items = 7

    answer = await metering.authorize(by_class)
    plain = await metering.authorize(ask(organization_id, "plain"))

    assert {one.name: one.reserved for one in answer.limits} == {
        "cache_read_tokens": "20",
        "eur": "0",
        "input_tokens": "100",
        "items": "7",
        "output_tokens": "3",
        "pages": "0",
        "reasoning_tokens": "0",
        "total_tokens": "123",
        "usd": answer.held_amount.value,
    }
    told = {one.name: one.reserved for one in plain.limits}
    assert (told["input_tokens"], told["output_tokens"], told["total_tokens"]) == ("1100", "1003", "2123")
    assert told["cache_read_tokens"] == "20"
    assert await reserved(platform, organization_id, spend) == [
        Decimal(answer.held_amount.value) + Decimal(plain.held_amount.value)
    ]


@pytest.mark.parametrize("field", ["items", "labels"])
async def test_repeat_that_differs_in_items_or_labels_is_another_call(
    platform: Platform, metering: Metering, organization_id: str, field: str
) -> None:
    await platform.fund(organization_id)
    values: dict[str, tuple[object, object]] = {
        "items": (1, 2),
        "labels": ({"team": "röd", "a": "\"'\\"}, {"team": "red"}),
    }
    first, other = values[field]
    await metering.authorize(ask(organization_id, "call-1", **{field: first}))

    again = await metering.authorize(ask(organization_id, "call-1", **{field: first}))
    assert (again.decision, again.replayed) == (ALLOWED, True)
    for differing in (ask(organization_id, "call-1", **{field: other}), ask(organization_id, "call-1")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await metering.authorize(differing)
        info = error_info(caught.value)
        assert info is not None
        assert (info.reason, info.metadata["field"]) == ("OPERATION_ID_REUSED", field)


def test_digest_of_a_request_without_items_and_labels_is_what_it_was() -> None:
    plain = Ask("o", "call-1", None, "u", None, None, "m", None, 1, 2, 1000, '{"pages":"1"}', "batch")
    text = "\x1f".join(("o", "call-1", "", "u", "", "", "m", "", "1", "2", "1000", '{"pages":"1"}', "batch"))
    assert plain.fingerprint() == blake2b(text.encode(), digest_size=16).digest()
    others = {plain._replace(items=1), plain._replace(labels="{}"), plain._replace(items=1, labels="{}"), plain}
    assert len({one.fingerprint() for one in others}) == 4
    assert differing_field(plain, plain._replace(items=3)) == "items"


async def test_hints_for_http_tell_the_windows_and_when_to_come_again(
    platform: Platform, metering: Metering, organization_id: str, clock: ShiftedClock
) -> None:
    await platform.fund(organization_id)
    assert await hints(metering, ask(organization_id, "none")) == {}
    begin_minute(clock)
    await set_limit(platform, organization_id, "minute", "2", window=Window.MINUTE)
    await set_limit(platform, organization_id, "a.b_c-d", "0.5", metric="spend", currency_code="USD")
    await set_limit(platform, organization_id, "sliding", "9", window=Window.HOUR, sliding=True)
    await set_limit(platform, organization_id, "ever", "9", window=Window.LIFETIME)
    await set_limit(platform, organization_id, "soft", "9", enforcement=Enforcement.SOFT)
    await set_limit(platform, organization_id, "any", None)

    passed = await hints(metering, ask(organization_id, "call-1"))
    await metering.authorize(ask(organization_id, "call-2"))
    refused = await hints(metering, ask(organization_id, "call-3"))

    policy = '"a.b_c-d";q=0;qu="USD";w=3600, "minute";q=2;w=60, "sliding";q=9;w=3600'
    assert passed["ratelimit-policy"] == policy
    assert "retry-after" not in passed
    spend, minute, sliding = passed["ratelimit"].split(", ")
    assert spend.startswith('"a.b_c-d";r=0;t=')
    assert minute.startswith('"minute";r=1;t=')
    assert sliding == '"sliding";r=8'
    seconds = int(refused["retry-after"])
    assert 30 < seconds <= 60
    # They are told one after the other, so a second may pass.
    assert refused["ratelimit"].startswith((f'"minute";r=0;t={seconds}, ', f'"minute";r=0;t={seconds - 1}, '))


async def test_no_hint_to_come_again_where_waiting_does_not_help(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    await set_limit(platform, organization_id, "tokens", "10", metric="total_tokens")
    told = await hints(metering, ask(organization_id, "call-1"))
    assert "retry-after" not in told
    assert told["ratelimit-policy"] == '"tokens";q=10;qu="total_tokens";w=3600'


def test_no_name_or_number_breaks_a_header_or_makes_it_large() -> None:
    def one(name: str, maximum: str) -> tuple[Limit, Standing]:
        shape = Shape("requests", "", Window.MINUTE, False, "", 0, Scope.ORGANIZATION, "", "")
        return Limit(new_id(), name, shape, Terms(Decimal(maximum))), Standing()

    limits = [one(name, "1") for name in ('"', "a\r\nset-cookie: x", "ä", "a b", "", "A")]
    limits += [one(f"{'x' * 60}{number:03d}", f"{10**15 - 1}.999") for number in range(40)]
    statuses = [(place_of(limit, "", DEFAULT_NOW), standing) for limit, standing in limits]

    told = dict(hints_of(Denied("LIMIT_EXCEEDED", "", limits=statuses), DEFAULT_NOW))

    assert told.pop("http-status") == "429"
    assert sum(map(len, told.values())) < 4096
    for value in told.values():
        assert value.count(", ") == LIMITS_MAX - 1
        assert value.isascii()
        assert value.isprintable()
    assert told["ratelimit"].startswith(f'"{"x" * 60}000";r=999999999999999;t=')
