"""LiteLLM's real proxy meters and charges through Tollhouse: every answered call once, whatever happens meanwhile."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from libs.common.ids import new_id
from tests.metering.support import eventually
from tests.system import model_provider
from tests.system.installation import Installation, create_organization_and_owner, running
from tests.system.litellm_proxy import INTEGRATION, Answer, Proxy
from tests.system.litellm_site import TEXT, Site, cost, new_caller, quantities
from tests.system.model_provider import running_upstream
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.identity.v1.api_key_pb2_grpc import ApiKeyServiceStub
from tollhouse.metering.v1 import admission_pb2, quota_pb2, usage_pb2
from tollhouse.metering.v1.quota_pb2_grpc import QuotaServiceStub

OPEN = admission_pb2.AUTHORIZATION_STATE_OPEN
CHAT = {
    "input_tokens": model_provider.PROMPT - model_provider.CACHED,
    "cache_read_tokens": model_provider.CACHED,
    "output_tokens": model_provider.COMPLETION - model_provider.REASONING,
    "reasoning_tokens": model_provider.REASONING,
}
MESSAGE = {
    "input_tokens": 50,
    "cache_read_tokens": 1000,
    "cache_write_tokens": 200,
    "cache_write_1h_tokens": 100,
    "output_tokens": 40,
    "web_searches": 2,
}


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("litellm")
    async with running_upstream() as upstream, running(Installation(folder, prepared=True)) as installation:
        proxy = Proxy(installation, upstream.url, folder)
        proxy.start()
        try:
            imported = installation.command("models", "import", str(INTEGRATION / "prices.yaml"))
            assert imported.returncode == 0, imported.stderr
            async with installation.connection().open() as channels:
                await proxy.ready()
                yield Site(channels, proxy, upstream, *await new_caller(channels))
                assert installation.verify()["violations"] == 0
        finally:
            proxy.close()


async def test_chat_is_charged_with_cached_and_reasoning_tokens_counted_once(site: Site) -> None:
    answer = await site.ask("chat:1", n=3)
    assert answer.status == 200, answer.body
    usage = await site.usage("chat:1")
    assert quantities(usage) == {**CHAT, "output_tokens": 60, "reasoning_tokens": 30}
    assert (usage.model, usage.partial, usage.status_code) == ("gpt-5", False, 200)
    assert cost(usage) == (100 * Decimal("1.25") + 20 * Decimal("0.125") + 90 * 10) / 1_000_000


async def test_answer_without_usage_is_charged_by_its_text(site: Site) -> None:
    assert (await site.ask("uncounted:1")).status == 200
    usage = await site.usage("uncounted:1")
    counted = quantities(usage)
    assert counted.keys() == {"input_tokens", "output_tokens"}
    assert 3 <= counted["output_tokens"] <= 10
    assert usage.labels["usage_doubt"] == "The answer has no usage."


async def test_streamed_chat_is_charged_whether_or_not_the_client_asks_for_usage(site: Site) -> None:
    answer = await site.ask("stream:1", stream=True)
    assert answer.status == 200
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert b'"usage"' not in answer.body
    usage = await site.usage("stream:1")
    assert (quantities(usage), usage.partial) == (CHAT, False)


@pytest.mark.parametrize(("model", "counted"), [("gpt-5", CHAT), ("smart", MESSAGE)])
async def test_streamed_text_completion_is_charged_by_the_counts_of_the_provider(
    site: Site, model: str, counted: Mapping[str, int]
) -> None:
    mark = f"text:{model}"
    options = {"stream": True, "stream_options": {"include_usage": False}}
    answer = await site.post("/v1/completions", mark, {"model": model, "prompt": "hi", "user": mark, **options})
    assert answer.status == 200
    assert answer.body.endswith(b"data: [DONE]\n\n")
    usage = await site.usage(mark)
    assert (quantities(usage), usage.partial) == (counted, False)


async def test_fallback_is_charged_at_the_model_that_answered_and_only_there(site: Site) -> None:
    assert (await site.ask("down:1")).status == 200
    assert site.upstream.asked["down:1"] == 4  # three tries of gpt-5, and one of gpt-5-mini
    usage = await site.usage("down:1")
    assert (usage.model, usage.labels["requested_model"]) == ("gpt-5-mini", "gpt-5")
    assert cost(usage) == (100 * Decimal("0.25") + 20 * Decimal("0.025") + 30 * 2) / 1_000_000


async def test_retried_call_is_one_operation(site: Site) -> None:
    assert (await site.ask("flaky:1")).status == 200
    assert site.upstream.asked["flaky:1"] == 2
    assert quantities(await site.usage("flaky:1")) == CHAT


async def test_six_parallel_calls_with_one_call_id_are_six_charges(site: Site) -> None:
    answers = await asyncio.gather(*(site.ask("same:1") for _ in range(6)))
    assert [answer.status for answer in answers] == [200] * 6
    usages = await site.usages_of("same:1", 6)
    assert len({usage.operation_id for usage in usages}) == 6


async def test_failed_call_is_cancelled_and_costs_nothing(site: Site) -> None:
    answer = await site.ask("refused:1", model="gpt-5-mini", max_tokens=77)
    assert answer.status == 400

    async def cancelled() -> list[admission_pb2.Authorization]:
        return [one for one in await site.states() if one.max_output_tokens == 77]

    (authorization,) = await eventually(cancelled, lambda found: bool(found) and found[0].state != OPEN)
    assert authorization.state == admission_pb2.AUTHORIZATION_STATE_CANCELLED


@pytest.mark.parametrize("way", ["breaking", "slow"])
async def test_interrupted_stream_is_charged_for_what_came_as_partial(site: Site, way: str) -> None:
    body = {"messages": TEXT, "user": f"{way}:1", "stream": True}
    answer = await site.post("/v1/chat/completions", f"{way}:1", body, leave_after=b"quick ")
    assert answer.status == 200
    usage = await site.usage(f"{way}:1")
    # What LiteLLM's tokenizer counts of the request, and of `The quick `.
    assert usage.partial
    assert usage.status_code in (499, 502)
    counted = quantities(usage)
    assert 5 < counted["input_tokens"] < 20
    assert 1 < counted["output_tokens"] < 5


@pytest.mark.parametrize("streamed", [False, True])
async def test_messages_of_anthropic_count_caches_beside_and_searches(site: Site, streamed: bool) -> None:
    mark = f"message:{streamed}"
    metadata = {"user_id": mark}
    body = {"model": "smart", "max_tokens": 99, "messages": TEXT, "metadata": metadata, "stream": streamed}
    answer = await site.post("/v1/messages", mark, body)
    assert answer.status == 200, answer.body
    usage = await site.usage(mark)
    assert (usage.model, quantities(usage)) == ("claude-sonnet-4-5", MESSAGE)
    of_caches = 1000 * Decimal("0.3") + 200 * Decimal("3.75") + 100 * 6
    assert cost(usage) == (50 * 3 + of_caches + 40 * 15) / 1_000_000 + Decimal("0.02")


@pytest.mark.parametrize("streamed", [False, True])
async def test_anthropic_under_openais_form_counts_the_same(site: Site, streamed: bool) -> None:
    answer = await site.ask(f"form:{streamed}", model="smart", stream=streamed)
    assert answer.status == 200, answer.body
    assert quantities(await site.usage(f"form:{streamed}")) == MESSAGE


@pytest.mark.parametrize("streamed", [False, True])
async def test_responses_count_web_searches(site: Site, streamed: bool) -> None:
    answer = await site.post("/v1/responses", f"response:{streamed}", {"input": "hi", "stream": streamed})
    assert answer.status == 200, answer.body
    assert quantities(await site.usage(f"response:{streamed}")) == {**CHAT, "web_searches": 1}


@pytest.mark.parametrize("streamed", [False, True])
async def test_tools_of_responses_are_charged_in_every_service_tier(site: Site, streamed: bool) -> None:
    mark = f"tools:{streamed}"
    tools = [{"type": "web_search"}, {"type": "code_interpreter", "container": {"type": "auto"}}]
    body = {"input": "hi", "tools": tools, "service_tier": "flex", "stream": streamed}
    answer = await site.post("/v1/responses", mark, body)
    assert answer.status == 200, answer.body
    usage = await site.usage(mark)
    assert quantities(usage) == {**CHAT, "web_searches_medium": 1, "code_sessions": 1}
    assert "usage_doubt" not in usage.labels
    tokens = (100 * Decimal("0.625") + 20 * Decimal("0.0625") + 30 * 5) / 1_000_000
    assert cost(usage) == tokens + Decimal("0.01") + Decimal("0.03")


@pytest.mark.parametrize("streamed", [False, True])
async def test_answer_that_comes_later_is_400_and_reaches_no_provider(site: Site, streamed: bool) -> None:
    mark = f"later:{streamed}"
    body = {"input": "hi", "user": mark, "background": True, "stream": streamed}
    answer = await site.post("/v1/responses", mark, body)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert (answer.error["code"], site.upstream.asked[mark]) == ("background_not_metered", 0)


async def test_more_answers_than_128_are_400_at_once(site: Site) -> None:
    for path, body in (("/v1/chat/completions", {"messages": TEXT}), ("/v1/completions", {"prompt": "hi"})):
        answer = await site.post(path, "many", {"model": "mock", "n": 10**12, **body})
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error"), path
        assert answer.error["code"] == "n_out_of_range"


async def test_end_user_cannot_fall_back_to_a_model_that_is_charged_as_another(site: Site) -> None:
    dearer = {"model": "gpt-5", "metadata": {}, "litellm_metadata": {}}
    answer = await site.ask("refused:fallback", model="gpt-5-mini", fallbacks=[dearer])
    assert (answer.status, answer.error["code"]) == (400, "fallbacks_not_metered")
    assert site.upstream.asked["refused:fallback"] == 0


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [("chat/completions", "deployment_id", "gpt-5"), ("responses", "extra_body", {"model": "gpt-5"})],
)
async def test_end_user_cannot_replace_the_model_that_is_charged(
    site: Site, path: str, name: str, value: object
) -> None:
    mark = f"replaced:{name}"
    body = {"model": "gpt-5-mini", "messages": TEXT, "input": "hi", "user": mark, name: value}
    answer = await site.post(f"/v1/{path}", mark, body)
    assert (answer.status, answer.error["code"]) == (400, f"{name}_not_metered")
    assert site.upstream.asked[mark] == 0


async def test_call_in_a_tier_without_a_price_waits_and_is_charged_when_it_has_one(site: Site, tmp_path: Path) -> None:
    command = site.proxy.installation.command
    before = datetime.now(UTC).isoformat()
    assert (await site.ask("auto:1", service_tier="auto")).status == 200

    async def found() -> list[usage_pb2.UsageRecord]:
        return [usage for usage in (await site.usages()).values() if usage.labels["litellm_call_id"] == "auto:1"]

    (usage,) = await eventually(found, lambda found: bool(found))
    assert (usage.settlement, usage.service_tier) == (usage_pb2.SETTLEMENT_PENDING_PRICE, "scale")
    waiting = json.loads(command("usage", "pending", "--organization", site.organization_id, "--json").stdout)
    assert [(one["model"], one["usage_count"]) for one in waiting] == [("gpt-5", "1")]
    rates = [
        f"      - {{unit: {unit}, price: '{price}', per: 1000000, service_tier: scale}}\n"
        for unit, price in (("input_tokens", "3"), ("cache_read_tokens", "1"), ("output_tokens", "30"))
    ]
    prices = tmp_path / "prices.yaml"
    shipped = (INTEGRATION / "prices.yaml").read_text()
    prices.write_text(shipped.replace("    rates:\n", "    rates:\n" + "".join(rates), 1))
    imported = command("models", "import", str(prices), "--effective-time", before)
    assert imported.returncode == 0, imported.stderr
    (usage,) = await eventually(found, lambda found: found[0].settlement == usage_pb2.SETTLEMENT_SETTLED)
    assert cost(usage) == Decimal(100 * 3 + 20 * 1 + 30 * 30) / 1_000_000


async def test_service_tier_that_is_asked_for_and_has_no_price_is_403(site: Site) -> None:
    answer = await site.ask("batch:1", service_tier="batch")
    assert (answer.status, answer.error["code"]) == (403, "price_unknown")
    assert site.upstream.asked["batch:1"] == 0


async def test_flex_tier_is_charged_at_its_price(site: Site) -> None:
    assert (await site.ask("flex:1", service_tier="flex")).status == 200
    usage = await site.usage("flex:1")
    assert usage.service_tier == "flex"
    assert cost(usage) == (100 * Decimal("0.625") + 20 * Decimal("0.0625") + 30 * 5) / 1_000_000


@pytest.mark.parametrize(
    ("path", "body", "counted"),
    [
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "hi"}, {"input_tokens": 8}),
        (
            "/v1/images/generations",
            {"model": "gpt-image-1", "prompt": "hi"},
            {"input_tokens": 15, "image_output_tokens": 4160},
        ),
        ("/v1/rerank", {"model": "rerank-v3.5", "query": "hi", "documents": ["a"]}, {"queries": 1}),
        ("/v1/completions", {"prompt": "hi"}, CHAT),
    ],
)
async def test_other_work_is_charged_by_its_own_units(
    site: Site, path: str, body: Mapping[str, object], counted: Mapping[str, int]
) -> None:
    answer = await site.post(path, path, body)
    assert answer.status == 200, answer.body
    assert quantities(await site.usage(path)) == counted


async def test_unknown_key_is_401_and_an_unmetered_route_403(site: Site) -> None:
    answer = await site.proxy.chat("th_live_nobody_has_this_key", "no key")
    assert (answer.status, answer.error["code"]) == (401, "key_not_found")
    for headers in ((), ("Authorization:",), ("Authorization: Bearer ",)):
        answer = await site.proxy.call(
            "POST", "/v1/chat/completions", *headers, data=b'{"model": "gpt-5", "messages": []}'
        )
        assert (answer.status, answer.error["type"]) == (401, "authentication_error"), headers
    for route in ("/key/generate", "/models/gpt-5:countTokens", "/models/gpt-5:generateContent"):
        answer = await site.proxy.post(route, site.key, {"contents": [{"parts": [{"text": "hi"}]}]})
        assert (answer.status, answer.error["code"]) == (403, "route_not_metered")
    answer = await site.proxy.call("GET", "/v1/models", f"Authorization: Bearer {site.key}")
    assert answer.status == 200


async def test_call_without_money_is_402_and_reaches_no_provider(site: Site) -> None:
    answer = await site.ask("poor:1", max_tokens=100_000_000)
    assert (answer.status, answer.error["code"]) == (402, "insufficient_balance")
    assert answer.error["type"] == "insufficient_quota"
    assert answer.error["message"]
    assert site.upstream.asked["poor:1"] == 0


async def test_work_that_is_not_sold_by_tokens_needs_money_too(site: Site) -> None:
    organization_id, owner = await create_organization_and_owner(site.channels)
    keys: ApiKeyServiceStub = ApiKeyServiceStub(site.channels.identity)
    request = api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, user_id=owner, name="poor")
    key = (await keys.CreateApiKey(request)).secret
    asked = len(site.upstream.requests)
    answer = await site.proxy.post("/v1/rerank", key, {"model": "rerank-v3.5", "query": "hi", "documents": ["a"]})
    assert (answer.status, answer.error["type"]) == (402, "insufficient_quota")
    # LiteLLM takes recordings as forms, and makes an error of its own of each.
    head = 'Content-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    parts = [head.format("model", "gpt-5-mini"), head.format('file"; filename="a.wav', "sound")]
    answer = await site.proxy.call(
        "POST",
        "/v1/audio/transcriptions",
        *(f"Authorization: Bearer {key}", "Content-Type: multipart/form-data; boundary=b"),
        data="".join(f"--b\r\n{part}" for part in parts).encode() + b"--b--\r\n",
    )
    assert (answer.status, answer.error["type"]) == (402, "insufficient_quota")
    assert len(site.upstream.requests) == asked


async def test_call_over_a_limit_is_429_with_retry_after(site: Site) -> None:
    quotas: QuotaServiceStub = QuotaServiceStub(site.channels.metering)
    organization_id, key = await new_caller(site.channels)
    other = replace(site, organization_id=organization_id, key=key)
    await quotas.SetLimit(
        quota_pb2.SetLimitRequest(
            organization_id=other.organization_id,
            name="day",
            metric="requests",
            window=quota_pb2.LIMIT_WINDOW_DAY,
            value="1",
        )
    )

    async def limited() -> Answer:
        return await other.ask(f"limit:{new_id()}")

    answer = await eventually(limited, lambda answer: answer.status == 429)
    assert answer.error["code"] == "limit_exceeded"
    assert 0 < int(answer.headers["retry-after"]) <= 86_400


async def test_model_that_tollhouse_does_not_know_is_404(site: Site) -> None:
    answer = await site.ask("unknown:1", model="gpt-of-nobody")
    assert (answer.status, answer.error["code"]) == (404, "model_unknown")


async def test_key_in_the_header_of_anthropics_clients_is_taken(site: Site) -> None:
    body = {"model": "smart", "max_tokens": 9, "messages": TEXT, "metadata": {"user_id": "header:1"}}
    headers = (f"x-api-key: {site.key}", "x-litellm-call-id: header:1")
    answer = await site.proxy.call("POST", "/v1/messages", *headers, data=json.dumps(body).encode())
    assert answer.status == 200, answer.body
    assert quantities(await site.usage("header:1")) == MESSAGE


async def test_no_work_begins_while_metering_is_away(site: Site) -> None:
    with site.metering_stopped():
        answer = await site.ask("while away:1")
    assert (answer.status, answer.error["code"]) == (503, "metering_unavailable")
    assert answer.headers["retry-after"]
    assert site.upstream.asked["while away:1"] == 0


async def test_killed_proxy_loses_and_doubles_nothing_it_answered(site: Site) -> None:
    answered: list[str] = []
    killed = asyncio.Event()

    async def caller(name: str) -> None:
        for number in range(1000):
            if killed.is_set():
                return
            mark = f"kill:{name}:{number}"
            try:
                answer = await site.ask(mark, stream=number % 2 == 1)
            except (OSError, asyncio.IncompleteReadError):
                return
            whole = b"[DONE]" in answer.body or answer.body.endswith(b"}")
            if answer.status == 200 and whole:
                answered.append(mark)

    stream = asyncio.create_task(site.ask("slow:kill", stream=True))
    await eventually(_number(lambda: site.upstream.asked["slow:kill"]), lambda count: count == 1)
    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(caller(str(number)))
        await eventually(_number(lambda: len(answered)), lambda count: count >= 24)
        with site.metering_stopped():
            # This is answered while metering takes no settlement, so after the kill only the spool knows of it.
            site.upstream.go_on.set()
            assert (await stream).body.endswith(b"data: [DONE]\n\n")
            site.proxy.kill()
            killed.set()
    site.proxy.start()
    await site.proxy.ready()

    async def charged() -> list[str]:
        return [usage.labels["litellm_call_id"] for usage in (await site.usages()).values()]

    marks = await eventually(charged, lambda marks: {"slow:kill", *answered} <= set(marks))
    assert quantities(await site.usage("slow:kill")) == CHAT
    of_kills = [mark for mark in marks if mark.startswith("kill:")]
    assert len(of_kills) == len(set(of_kills))
    # What was charged and not answered was done by the provider: the proxy died before it could hand it on.
    assert all(site.upstream.answered[mark] for mark in of_kills)
    assert (await site.ask("after:1")).status == 200


def _number(count: Callable[[], int]) -> Callable[[], Awaitable[int]]:
    async def counted() -> int:
        return count()

    return counted
