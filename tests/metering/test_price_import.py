"""Price lists as they are imported: in one message or in parts, whole, item by item, and beside other calls."""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence

import grpc
import pytest
from pydantic import SecretStr

from libs.cli.installation.environment import repository
from libs.common.ids import new_id
from services.metering.__main__ import build
from services.metering.settings import MeteringSettings
from tests.metering.support import Metering, Platform, refused
from tests.support.callers import Metadata
from tests.support.transaction_pooler import pooled
from tollhouse.metering.v1 import model_pb2 as pb

pytestmark = pytest.mark.own_database

# The public price list, where it is at hand; it is then imported beside the one that is made here.
PUBLIC_PRICE_LIST = repository().parent / "shared" / "data" / "litellm_model_prices.json"
SKIPPED, IMPORTED, UNCHANGED = pb.IMPORT_RESULT_SKIPPED, pb.IMPORT_RESULT_IMPORTED, pb.IMPORT_RESULT_UNCHANGED
GOOD = {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}


def document(entries: Mapping[str, object]) -> bytes:
    return json.dumps(entries).encode()


def made_price_list(models: int, first: int = 0) -> bytes:
    """A list shaped like the public one."""
    extra = {"max_input_tokens": 128000, "litellm_provider": "acme", "mode": "chat", "output_cost_per_image": 0.04}
    more = {f"supports_{name}": True for name in ("vision", "pdf_input", "tool_choice", "reasoning", "web_search")}
    return document({f"acme/model-{number}": GOOD | extra | more for number in range(first, first + models)})


def options(content: bytes, **fields: object) -> pb.ImportOptions:
    fields = {"format": pb.PRICE_LIST_FORMAT_LITELLM_JSON, "size_bytes": len(content)} | fields
    return pb.ImportOptions(**fields)  # type: ignore[arg-type]


def parts(content: bytes, chosen: pb.ImportOptions | None = None) -> list[pb.StreamImportModelsRequest]:
    chunks = [pb.StreamImportModelsRequest(chunk=content[at : at + 256_000]) for at in range(0, len(content), 256_000)]
    return [pb.StreamImportModelsRequest(options=chosen or options(content)), *chunks]


async def stream(
    metering: Metering, messages: Sequence[pb.StreamImportModelsRequest]
) -> list[pb.StreamImportModelsResponse]:
    async def sent() -> AsyncIterator[pb.StreamImportModelsRequest]:
        for message in messages:
            yield message

    return [answer async for answer in metering.models.StreamImportModels(sent(), metadata=metering.operator)]


def counts(answer: pb.ImportSummary | pb.ImportModelsResponse) -> tuple[int, int, int]:
    return answer.imported_count, answer.unchanged_count, answer.skipped_count


def outcomes_of(answers: Sequence[pb.StreamImportModelsResponse]) -> list[pb.ImportOutcome]:
    return [outcome for answer in answers for outcome in answer.outcomes.outcomes]


@pytest.mark.parametrize(
    "odd",
    [
        b'{"input_cost_per_token": 1e999999999, "output_cost_per_token": 1}',
        b'{"input_cost_per_token": 1, "output_cost_per_token": 1, "mode": "\\u0000"}',
        b'{"input_cost_per_token": 1, "output_cost_per_token": 1, "litellm_provider": "\\ud800"}',
        b'{"input_cost_per_token": NaN, "output_cost_per_token": 1}',
        b"[" * 10_000 + b"]" * 10_000,
    ],
)
async def test_odd_entry_is_skipped_with_its_reason_and_the_rest_is_imported(metering: Metering, odd: bytes) -> None:
    request = pb.ImportModelsRequest(litellm_json=b'{"odd": %s, "good": %s}' % (odd, document(GOOD)))

    answer = await metering.models.ImportModels(request, metadata=metering.operator)

    assert [(one.model_id, one.result, bool(one.reason)) for one in answer.outcomes] == [
        ("odd", SKIPPED, True),
        ("good", IMPORTED, False),
    ]


async def test_entry_with_a_surrogate_is_skipped_alone_in_yaml(metering: Metering) -> None:
    entry = '  - {{model_id: "{}", currency_code: USD, prices: {{input: 1, output: 1}}, description: "{}"}}\n'
    content = "models:\n" + entry.format("a", "\\ud800") + entry.format("b\\0", "") + entry.format("c", "")
    answer = await metering.models.ImportModels(
        pb.ImportModelsRequest(yaml=content.encode()), metadata=metering.operator
    )
    assert [(one.model_id, one.result) for one in answer.outcomes] == [
        ("a", SKIPPED),
        ("b\ufffd", SKIPPED),
        ("c", IMPORTED),
    ]


async def test_outcome_tells_of_prices_and_counts_that_were_left_out(metering: Metering) -> None:
    entry = GOOD | {"max_input_tokens": "many", "output_cost_per_dream": 1, "tiered_pricing": []}
    request = pb.ImportModelsRequest(litellm_json=document({"m": entry}))
    whole = (await metering.models.ImportModels(request, metadata=metering.operator)).outcomes[0]
    assert whole.result == SKIPPED
    assert {"output_cost_per_dream", "tiered_pricing"} <= set(whole.reason.split())
    request.allow_partial = True
    first = (await metering.models.ImportModels(request, metadata=metering.operator)).outcomes[0]
    again = (await metering.models.ImportModels(request, metadata=metering.operator)).outcomes[0]
    for outcome in (first, again):
        assert list(outcome.ignored_price_keys) == ["output_cost_per_dream", "tiered_pricing"]
        assert [warning.split()[0] for warning in outcome.warnings] == ["max_input_tokens"]
    assert (first.result, again.result) == (IMPORTED, UNCHANGED)


@pytest.mark.parametrize("planted", ["models", "price_versions"])
async def test_entry_that_the_database_refuses_does_not_fail_the_others(
    platform: Platform, metering: Metering, planted: str
) -> None:
    content = made_price_list(450)
    names = {"acme/model-3", "acme/model-199", "acme/model-449"}
    listed = ", ".join(f"'{name}'" for name in sorted(names))
    await platform.execute(f"ALTER TABLE metering.{planted} ADD CONSTRAINT planted CHECK (model_id NOT IN ({listed}))")

    answers = await stream(metering, parts(content))

    assert counts(answers[-1].summary) == (447, 0, 3)
    assert {one.model_id for one in outcomes_of(answers) if one.result == SKIPPED} == names
    assert all("cannot be stored" in one.reason for one in outcomes_of(answers) if one.result == SKIPPED)
    assert await platform.value("SELECT count(*) FROM metering.price_versions WHERE source = 'litellm'") == 447


async def test_streamed_list_is_imported_as_a_whole_with_progress_and_repeating_it_adds_nothing(
    metering: Metering,
) -> None:
    content = made_price_list(1_200)
    first, second = await stream(metering, parts(content)), await stream(metering, parts(content))

    assert counts(first[-1].summary) == (1_200, 0, 0)
    assert counts(second[-1].summary) == (0, 1_200, 0)
    assert first[0].HasField("progress")
    assert [one.model_id for one in outcomes_of(first)] == [f"acme/model-{number}" for number in range(1_200)]
    assert [one.price_version_id for one in outcomes_of(first)] == [one.price_version_id for one in outcomes_of(second)]


async def test_dry_run_and_choice_of_models_hold_for_streamed_lists(platform: Platform, metering: Metering) -> None:
    content = made_price_list(5)
    chosen = options(content, validate_only=True, model_ids=["acme/model-1", "gone"])
    answers = await stream(metering, parts(content, chosen))
    assert [(one.model_id, one.result, one.reason, one.price_version_id) for one in outcomes_of(answers)] == [
        ("acme/model-1", IMPORTED, "", ""),
        ("gone", SKIPPED, "is not in the list", ""),
    ]
    assert await platform.value("SELECT count(*) FROM metering.models WHERE provider = 'acme'") == 0


async def test_streamed_list_that_is_cut_off_or_out_of_order_imports_nothing(
    platform: Platform, metering: Metering
) -> None:
    content = made_price_list(5)
    first, *chunks = parts(content)
    size = len(content)
    for messages in (
        *([], chunks, [first], [first, first, *chunks], [*chunks, first]),
        *(parts(content, options(content, size_bytes=size - 1)), parts(content, options(content, size_bytes=size + 1))),
        *(parts(content, options(content, format=0)), parts(content, options(content, format=99))),
        *(parts(content, options(content, size_bytes=67_108_865)), [pb.StreamImportModelsRequest()]),
        parts(content, options(content, format=pb.PRICE_LIST_FORMAT_YAML)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream(metering, messages)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, messages
    assert await platform.value("SELECT count(*) FROM metering.models WHERE provider = 'acme'") == 0


async def test_import_that_the_caller_gives_up_imports_nothing_and_can_be_started_again(
    platform: Platform, metering: Metering
) -> None:
    content = made_price_list(3_000)

    async def sent() -> AsyncIterator[pb.StreamImportModelsRequest]:
        for message in parts(content):
            yield message

    call = metering.models.StreamImportModels(sent(), metadata=metering.operator)
    async for answer in call:
        if answer.progress.decided_count:
            break
    call.cancel()
    answers = await _when_free(metering, parts(content))
    # Had anything of the first import been kept, it would be unchanged now.
    assert counts(answers[-1].summary) in {(3_000, 0, 0), (0, 3_000, 0)}
    assert await platform.value("SELECT count(*) FROM metering.price_versions WHERE source = 'litellm'") == 3_000


async def _when_free(
    metering: Metering, messages: Sequence[pb.StreamImportModelsRequest]
) -> list[pb.StreamImportModelsResponse]:
    """Import as soon as the process has ended the import before."""
    give_up_s = time.monotonic() + 20
    while True:
        try:
            return await stream(metering, messages)
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > give_up_s:
                raise
            await asyncio.sleep(0.1)


async def test_second_streamed_import_is_turned_away_while_the_first_is_under_way(metering: Metering) -> None:
    content = made_price_list(5)
    begun, end = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[pb.StreamImportModelsRequest]:
        first, *chunks = parts(content)
        yield first
        begun.set()
        await end.wait()
        for chunk in chunks:
            yield chunk

    async def read() -> list[pb.StreamImportModelsResponse]:
        return [one async for one in metering.models.StreamImportModels(slow(), metadata=metering.operator)]

    reading = asyncio.create_task(read())
    await begun.wait()
    await asyncio.sleep(0.2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream(metering, parts(content))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    end.set()
    assert counts((await reading)[-1].summary) == (5, 0, 0)


async def test_caller_that_is_still_sending_is_told_why_its_list_is_refused(metering: Metering) -> None:
    """gRPC's client answers INTERNAL when the call ends while it sends; which of the two came first was chance."""
    content = b"x" * 20_000_000
    wrong = parts(content, options(content, margin_percent="-100.5"))
    right = parts(content)

    async def told(messages: Sequence[pb.StreamImportModelsRequest], metadata: Metadata) -> grpc.StatusCode:
        async def sent() -> AsyncIterator[pb.StreamImportModelsRequest]:
            for message in messages:
                yield message

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [answer async for answer in metering.models.StreamImportModels(sent(), metadata=metadata)]
        return caught.value.code()

    for _ in range(10):
        assert await told(wrong, metering.operator) is grpc.StatusCode.INVALID_ARGUMENT
        assert await told(right, metering.gateway) is grpc.StatusCode.PERMISSION_DENIED
        assert await told(right, ()) is grpc.StatusCode.UNAUTHENTICATED


async def test_refused_caller_that_neither_sends_nor_ends_is_answered_within_seconds(metering: Metering) -> None:
    async def sent() -> AsyncIterator[pb.StreamImportModelsRequest]:
        yield pb.StreamImportModelsRequest(options=options(b"", format=99))
        await asyncio.Event().wait()

    began_s = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [answer async for answer in metering.models.StreamImportModels(sent(), metadata=metering.operator)]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert time.monotonic() - began_s < 5


async def test_other_calls_are_answered_while_a_large_list_is_imported(metering: Metering) -> None:
    """Longer than this, and a call would wait for the parser or for a statement rather than for its turn."""
    content = made_price_list(12_000)
    importing = asyncio.create_task(stream(metering, parts(content)))
    longest_s, calls = 0.0, 0
    while not importing.done():
        began_s = time.monotonic()
        await metering.models.GetModel(pb.GetModelRequest(model_id="gpt-4o"), metadata=metering.operator)
        longest_s, calls = max(longest_s, time.monotonic() - began_s), calls + 1
    assert counts((await importing)[-1].summary) == (12_000, 0, 0)
    assert calls > 10
    assert longest_s < 2.0


async def test_list_whose_outcomes_do_not_fit_into_one_answer_is_refused_before_anything_is_imported(
    platform: Platform, metering: Metering
) -> None:
    names = [f"acme/{number:05}-{'x' * 200}" for number in range(18_000)]
    content = ("{" + ",".join(f'"{name}":0' for name in names) + "}").encode()
    assert len(content) < 3_900_000
    request = pb.ImportModelsRequest(litellm_json=content)
    code, _ = await refused(metering.models.ImportModels(request, metadata=metering.operator))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    answers = await stream(metering, parts(content))
    assert counts(answers[-1].summary) == (0, 0, 18_000)


async def test_public_price_list_is_imported_and_every_entry_has_its_outcome(metering: Metering) -> None:
    """The public list where it is at hand, else one of its size that is made here."""
    at_hand = PUBLIC_PRICE_LIST.exists()
    content = PUBLIC_PRICE_LIST.read_bytes() if at_hand else made_price_list(4_878)
    unary = await metering.models.ImportModels(
        pb.ImportModelsRequest(litellm_json=content, validate_only=True), metadata=metering.operator
    )
    answers = await stream(metering, parts(content))
    assert counts(answers[-1].summary) == counts(unary)
    assert len(outcomes_of(answers)) == len(json.loads(content))
    assert all(one.reason for one in outcomes_of(answers) if one.result == SKIPPED)
    assert not any("cannot be stored" in one.reason for one in outcomes_of(answers))
    assert answers[-1].summary.imported_count > 3_000


async def test_prices_of_the_same_moment_exclude_each_other_in_a_dry_run_too(metering: Metering) -> None:
    name, request = f"m-{new_id()}", pb.ImportModelsRequest()
    request.effective_time.GetCurrentTime()
    request.litellm_json = document({name: GOOD})
    assert counts(await metering.models.ImportModels(request, metadata=metering.operator)) == (1, 0, 0)
    request.litellm_json = document({name: GOOD | {"input_cost_per_token": 5e-06}})
    for request.validate_only in (True, False):
        answer = await metering.models.ImportModels(request, metadata=metering.operator)
        assert [(one.result, one.reason) for one in answer.outcomes] == [
            (SKIPPED, "another price takes effect at the same moment")
        ]


async def test_price_list_is_imported_and_read_again_through_a_transaction_pooler(platform: Platform) -> None:
    """Savepoints, and the cursor by which the catalogue is read, need nothing that outlives a transaction."""
    await platform.execute("ALTER TABLE metering.models ADD CONSTRAINT planted CHECK (model_id <> 'acme/model-7')")
    async with pooled(platform.urls["metering"]) as (url, _):
        settings = MeteringSettings(
            database_url=SecretStr(url),
            trust_bundle_file=platform.callers.bundle_file,
            signing_key_file=platform.callers.signing_key_file("metering", platform.folder),
            billing_target=f"127.0.0.1:{platform.billing_port}",
            identity_target=f"127.0.0.1:{platform.identity_port}",
            statement_cache_size=0,
            reflection=False,
        )
        service = await build(settings)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{await service.start()}") as channel:
            metering = Metering(service, channel, platform.callers)
            answers = await stream(metering, parts(made_price_list(1_200)))
            assert counts(answers[-1].summary) == (1_199, 0, 1)
            request = pb.EstimateCostRequest(model_id="acme/model-1199", tokens=pb.TokenCounts(input=1_000_000))
            estimate = await metering.models.EstimateCost(request, metadata=metering.operator)
            assert estimate.cost.value == "1"
        await service.stop(0)


async def test_catalogue_of_five_thousand_cards_is_loaded_without_holding_up_other_work(
    platform: Platform, metering: Metering
) -> None:
    """A process that starts reads all prices; whatever else it does must have its turn meanwhile.

    What is measured is the time that the thread of the event loop computes without a turn for others, without the
    collection of garbage, which takes as long as the process of all tests is large.
    """
    for first in range(0, 5_000, 1_000):
        await stream(metering, parts(made_price_list(1_000, first)))
    await platform.stop_metering()
    metering = await platform.start_metering()
    longest_s, running = 0.0, True

    async def watch() -> None:
        nonlocal longest_s
        while running:
            began_s = time.thread_time()
            await asyncio.sleep(0)
            longest_s = max(longest_s, time.thread_time() - began_s)

    gc.disable()
    watching = asyncio.create_task(watch())
    request = pb.EstimateCostRequest(model_id="acme/model-4999", tokens=pb.TokenCounts(input=1_000_000))
    estimate = await metering.models.EstimateCost(request, metadata=metering.operator)
    gc.enable()
    running = False
    await watching
    assert estimate.cost.value == "1"
    assert longest_s < 0.25
