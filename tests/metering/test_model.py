from decimal import Decimal
from pathlib import Path

import grpc
import pytest

import libs.cli.traces
from libs.common.ids import new_id
from tests.metering.support import Metering, refused, stamp, usage
from tests.metering.test_rating import LITELLM
from tollhouse.metering.v1 import model_pb2 as pb


async def test_model_is_created_once_and_changed_by_mask(metering: Metering) -> None:
    request = pb.CreateModelRequest(request_id="r-1", model_id="m/1", capabilities=["b", "a"], metadata={"k": "v"})
    created = await metering.models.CreateModel(request, metadata=metering.operator)
    repeated = await metering.models.CreateModel(request, metadata=metering.operator)
    assert (created.replayed, repeated.replayed, repeated.model) == (False, True, created.model)
    changed = pb.CreateModelRequest(request_id="r-1", model_id="m/1", provider="x")
    taken = pb.CreateModelRequest(request_id="r-2", model_id="m/1")
    assert (await refused(metering.models.CreateModel(changed, metadata=metering.operator)))[1] == "REQUEST_ID_REUSED"
    assert (await refused(metering.models.CreateModel(taken, metadata=metering.operator)))[1] == "MODEL_EXISTS"

    update = pb.UpdateModelRequest(request_id="u-1", model_id="m/1", etag=created.model.etag, provider="openai")
    update.update_mask.paths.append("provider")
    updated = (await metering.models.UpdateModel(update, metadata=metering.operator)).model
    assert (updated.provider, list(updated.capabilities)) == ("openai", ["a", "b"])
    update.request_id = "u-2"
    assert (await refused(metering.models.UpdateModel(update, metadata=metering.operator)))[
        0
    ] == grpc.StatusCode.ABORTED
    update.update_mask.paths.append("model_id")
    code, _ = await refused(metering.models.UpdateModel(update, metadata=metering.operator))
    assert code == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.own_database
async def test_models_and_prices_are_listed_in_pages(metering: Metering) -> None:
    for number in range(5):
        await metering.add_model(f"m-{number}")
        await metering.set_price(effective_time=stamp(hours=number + 1))

    models, prices = [], []
    models_request, prices_request = (
        pb.ListModelsRequest(page_size=2),
        pb.ListPricesRequest(model_id="gpt-4o", page_size=2),
    )
    while True:
        page = await metering.models.ListModels(models_request, metadata=metering.operator)
        models += [model.model_id for model in page.models]
        models_request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    while True:
        prices_page = await metering.models.ListPrices(prices_request, metadata=metering.operator)
        prices += [version.effective_time.seconds for version in prices_page.price_versions]
        prices_request.page_token = prices_page.next_page_token
        if not prices_page.next_page_token:
            break

    assert models == ["gpt-4o", *(f"m-{number}" for number in range(5))]
    assert len(prices) == 6
    assert prices == sorted(prices, reverse=True)


@pytest.mark.own_database
async def test_pages_of_large_models_fit_into_answers_and_have_every_model(metering: Metering) -> None:
    """Each model is about 80 KB, all of them 4.8 MB, and a client takes answers of 4 MiB."""
    metadata = {f"key-{number}": "\U0001f602" * 512 for number in range(32)}
    made = [
        await metering.add_model(f"large-{number:02d}", description="\U0001f602" * 4096, metadata=metadata)
        for number in range(60)
    ]

    found: list[pb.Model] = []
    sizes: list[int] = []
    request = pb.ListModelsRequest(page_size=1_000)
    while not sizes or request.page_token:
        page = await metering.models.ListModels(request, metadata=metering.operator)
        found += page.models
        sizes.append(page.ByteSize())
        request.page_token = page.next_page_token

    assert found[1:] == made
    assert max(sizes) < 2_100_000
    assert len(sizes) == 3


@pytest.mark.own_database
async def test_price_in_force_at_the_moment_of_use_is_charged(metering: Metering, organization_id: str) -> None:
    boundary = stamp(minutes=-10)
    await metering.set_price(price_in="5", price_out="5", effective_time=boundary)
    before, at = usage(organization_id), usage(organization_id, occur_time=boundary)
    before.occur_time.CopyFrom(boundary)
    before.occur_time.FromMicroseconds(boundary.ToMicroseconds() - 1)

    costs = [(await metering.record(request)).usage.cost.value for request in (before, at)]

    assert costs == ["0.0035", "0.0055"]


@pytest.mark.own_database
async def test_own_price_of_an_organization_comes_before_everybodys(metering: Metering, organization_id: str) -> None:
    await metering.set_price(price_in="1", price_out="1", organization_id=organization_id)

    own, others = await metering.record(usage(organization_id)), await metering.record(usage(new_id()))

    assert (own.usage.cost.value, others.usage.cost.value) == ("0.0011", "0.0035")


@pytest.mark.own_database
async def test_price_versions_of_one_moment_exclude_each_other(metering: Metering) -> None:
    moment = stamp(hours=1)
    await metering.set_price(effective_time=moment)

    assert await refused(metering.set_price(effective_time=moment)) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "PRICE_VERSION_EXISTS",
    )
    assert (await refused(metering.set_price("nobody")))[0] == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "prices",
    [{"price_in": "-1"}, {"price_in": "1e3"}, {"price_in": "NaN"}, {"price_out": ""}, {"image": "1.0000000001"}],
)
async def test_bad_prices_are_refused(metering: Metering, prices: dict[str, str]) -> None:
    assert (await refused(metering.set_price(**prices)))[0] == grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[arg-type]


async def test_import_adds_what_differs_and_repeating_it_adds_nothing(metering: Metering) -> None:
    request = pb.ImportModelsRequest(litellm_json=LITELLM, validate_only=True)
    dry = await metering.models.ImportModels(request, metadata=metering.operator)
    request.validate_only = False
    first = await metering.models.ImportModels(request, metadata=metering.operator)
    second = await metering.models.ImportModels(request, metadata=metering.operator)

    # The price of gpt-4o was set by hand.
    assert (dry.imported_count, dry.unchanged_count, dry.kept_count, dry.skipped_count) == (4, 0, 1, 5)
    assert (first.imported_count, first.unchanged_count, first.kept_count, first.skipped_count) == (4, 0, 1, 5)
    assert (second.imported_count, second.unchanged_count, second.kept_count, second.skipped_count) == (0, 4, 1, 5)
    assert all(outcome.reason for outcome in first.outcomes if outcome.result == pb.IMPORT_RESULT_SKIPPED)


async def test_shipped_catalogue_is_imported(metering: Metering) -> None:
    document = (Path(libs.cli.traces.__file__).parent / "data" / "models.yaml").read_bytes()

    answer = await metering.models.ImportModels(pb.ImportModelsRequest(yaml=document), metadata=metering.operator)

    assert answer.skipped_count == 0


@pytest.mark.own_database
async def test_estimate_names_the_price_and_every_class(metering: Metering) -> None:
    request = pb.EstimateCostRequest(model_id="gpt-4o", tokens=pb.TokenCounts(input=1_000_000, reasoning=1))
    unknown = pb.EstimateCostRequest(model_id="nobody")
    early = pb.EstimateCostRequest(model_id="gpt-4o")
    early.occur_time.FromMicroseconds(0)

    estimate = await metering.models.EstimateCost(request, metadata=metering.gateway)

    assert Decimal(estimate.cost.value) == Decimal("2.50001")
    assert [(line.token_class, line.unit_price) for line in estimate.lines] == [("input", "2.5"), ("reasoning", "10")]
    assert (await refused(metering.models.EstimateCost(unknown, metadata=metering.gateway)))[0] == (
        grpc.StatusCode.NOT_FOUND
    )
    assert await refused(metering.models.EstimateCost(early, metadata=metering.gateway)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "PRICE_UNKNOWN",
    )


async def test_catalogue_is_changed_by_operators_only(metering: Metering) -> None:
    request = pb.CreateModelRequest(request_id="r", model_id="m")

    assert (await refused(metering.models.CreateModel(request, metadata=metering.gateway)))[0] == (
        grpc.StatusCode.PERMISSION_DENIED
    )
    assert (await refused(metering.models.CreateModel(request)))[0] == grpc.StatusCode.UNAUTHENTICATED


async def test_models_are_listed_by_what_they_can_do_and_by_provider(metering: Metering) -> None:
    tag = new_id()
    for name, capabilities in (("a", ["chat", tag]), ("b", [tag]), ("c", ["chat"])):
        await metering.add_model(f"{name}-{tag}", provider=f"p-{name}-{tag}", capabilities=capabilities)

    async def listed(*capabilities: str, provider: str = "") -> list[str]:
        request = pb.ListModelsRequest(capabilities=capabilities, provider=provider, page_size=1)
        found: list[str] = []
        while True:
            page = await metering.models.ListModels(request, metadata=metering.operator)
            found += [model.model_id for model in page.models]
            request.page_token = page.next_page_token
            if not request.page_token:
                return found

    assert await listed(tag) == [f"a-{tag}", f"b-{tag}"]
    assert await listed("chat", tag) == [f"a-{tag}"]
    assert await listed(tag, provider=f"p-b-{tag}") == [f"b-{tag}"]
    assert await listed("no such thing") == []
