"""The gRPC service of models and prices: requests are parsed, use cases called, responses rendered."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import grpc

from libs.common.amount import format_amount
from libs.common.call import require_membership
from libs.common.errors import FieldViolation, InvalidArgument, Overloaded
from libs.common.ids import is_id
from libs.common.pages import decode_page_token, encode_page_token, page_size
from libs.common.timestamps import parse_optional_time, render_time, time_of_text, time_text
from libs.common.validation import Reader
from services.metering.model.domain import (
    REQUESTS,
    Model,
    Prices,
    PriceVersion,
    Tokens,
    card_of,
    format_nanos,
    prices_of,
)
from services.metering.model.models import Models
from services.metering.model.parsing import (
    CATALOGUE,
    LITELLM,
    ReceivedPriceList,
    receive_options,
    receive_price_list,
    repeatable,
)
from services.metering.model.price_import import ImportOutcome, PriceImport
from services.metering.model.price_list import read_litellm, read_yaml
from services.metering.model.rates import Line
from services.metering.model.rendering import answer_bytes_max, render_outcome, summary_of
from services.metering.model.units import TOKEN_CLASS_UNITS
from services.metering.tables import TOKEN_CLASSES
from tollhouse.common.v1 import amount_pb2
from tollhouse.metering.v1 import model_pb2 as pb
from tollhouse.metering.v1 import model_pb2_grpc as rpc

_UPDATABLE: Final = (
    "provider",
    "display_name",
    "description",
    "capabilities",
    "context_length",
    "max_output_tokens",
    "active",
    "metadata",
)

# Clients accept messages of up to 4 MiB.
_ANSWER_BYTES_MAX: Final = 4_000_000
# Less than the age at which the server closes a connection, so that the caller is told the reason.
_STREAMED_IMPORT_MAX_S: Final = 240.0
_PROGRESS_EVERY_S: Final = 0.5
# So few that the message stays below 4 MiB even if every outcome has the most warnings it can have.
_OUTCOMES_PER_MESSAGE: Final = 100


class ModelServicer(rpc.ModelServiceServicer):
    """Implements ModelService."""

    def __init__(self, models: Models, price_import: PriceImport) -> None:
        self._models = models
        self._price_import = price_import
        self._streaming = asyncio.Lock()

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "UpdateModel": _require_mask,
        }

    async def CreateModel(
        self, request: pb.CreateModelRequest, context: grpc.aio.ServicerContext
    ) -> pb.CreateModelResponse:
        answer, replayed = await self._models.create(
            _new_model(request),
            repeatable(request.request_id, "CreateModel", request),
            lambda model: pb.CreateModelResponse(model=render_model(model)).SerializeToString(),
        )
        response = pb.CreateModelResponse.FromString(answer)
        response.replayed = replayed
        return response

    async def GetModel(self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=render_model(await self._models.get(request.model_id)))

    async def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListModelsResponse:
        fingerprint = f"models/{request.provider}/{request.active_only}"
        (after,) = decode_page_token(request.page_token, fingerprint) if request.page_token else ("",)
        limit = page_size(request.page_size)
        models = await self._models.list_models(
            after=after, provider=request.provider, active_only=request.active_only, limit=limit
        )
        token = encode_page_token(models[-1].model_id, fingerprint=fingerprint) if len(models) == limit else ""
        return pb.ListModelsResponse(models=map(render_model, models), next_page_token=token)

    async def UpdateModel(
        self, request: pb.UpdateModelRequest, context: grpc.aio.ServicerContext
    ) -> pb.UpdateModelResponse:
        _require_mask(request)
        answer, replayed = await self._models.update(
            request.model_id,
            {path: _plain(path, request) for path in request.update_mask.paths},
            request.etag,
            repeatable(request.request_id, "UpdateModel", request),
            lambda model: pb.UpdateModelResponse(model=render_model(model)).SerializeToString(),
        )
        response = pb.UpdateModelResponse.FromString(answer)
        response.replayed = replayed
        return response

    async def ImportModels(
        self, request: pb.ImportModelsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ImportModelsResponse:
        wanted = list(request.model_ids)
        # Parsing takes a fraction of a second, so it runs in a thread and does not block other calls.
        if request.WhichOneof("document") == "litellm_json":
            entries = await asyncio.to_thread(read_litellm, request.litellm_json, wanted)
            field, source = "litellm_json", LITELLM
        else:
            entries = await asyncio.to_thread(read_yaml, request.yaml, wanted)
            field, source = "yaml", CATALOGUE
        if answer_bytes_max(entries) > _ANSWER_BYTES_MAX:
            what = "has more entries than fit into one response; use StreamImportModels"
            raise InvalidArgument([FieldViolation(field, what)])
        outcomes = await self._price_import.run(
            entries,
            source=source,
            effective_time=_effective_time(request),
            validate_only=request.validate_only,
        )
        summary = summary_of(outcomes)
        return pb.ImportModelsResponse(
            outcomes=map(render_outcome, outcomes),
            imported_count=summary.imported_count,
            unchanged_count=summary.unchanged_count,
            skipped_count=summary.skipped_count,
        )

    async def StreamImportModels(
        self, request_iterator: AsyncIterator[pb.StreamImportModelsRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.StreamImportModelsResponse]:
        async with asyncio.timeout(_STREAMED_IMPORT_MAX_S):
            options = await receive_options(request_iterator)
            # One import at a time, to bound the memory.
            if self._streaming.locked():
                raise Overloaded
            async with self._streaming:
                received = await receive_price_list(options, request_iterator)
                async for answer in self._import_received(received):
                    yield answer

    async def _import_received(self, received: ReceivedPriceList) -> AsyncIterator[pb.StreamImportModelsResponse]:
        """Import a complete list. Yield the progress until the import is done, then the outcomes and the summary."""
        progress = pb.ImportProgress()
        importing = asyncio.create_task(self._import_with_progress(received, progress))
        try:
            while not importing.done():
                yield pb.StreamImportModelsResponse(progress=progress)
                await asyncio.wait({importing}, timeout=_PROGRESS_EVERY_S)
        finally:
            importing.cancel()
        outcomes = await importing
        for start in range(0, len(outcomes), _OUTCOMES_PER_MESSAGE):
            part = map(render_outcome, outcomes[start : start + _OUTCOMES_PER_MESSAGE])
            yield pb.StreamImportModelsResponse(outcomes=pb.ImportOutcomes(outcomes=part))
        yield pb.StreamImportModelsResponse(summary=summary_of(outcomes))

    async def _import_with_progress(
        self, received: ReceivedPriceList, progress: pb.ImportProgress
    ) -> list[ImportOutcome]:
        """Parse and import a list, and update `progress` meanwhile."""
        entries = await asyncio.to_thread(received.read)
        progress.entry_count = len(entries)

        def on_progress(decided: int) -> None:
            progress.decided_count = decided

        return await self._price_import.run(
            entries,
            source=received.source,
            effective_time=received.effective_time,
            validate_only=received.validate_only,
            on_progress=on_progress,
        )

    async def SetPrice(self, request: pb.SetPriceRequest, context: grpc.aio.ServicerContext) -> pb.SetPriceResponse:
        effective_time = _effective_time(request)
        prices = _read_prices(request.currency_code, request.prices)
        organization_id = request.organization_id.lower() or None
        if request.validate_only:
            await self._models.check_price(request.model_id, organization_id, effective_time)
            return pb.SetPriceResponse(price_version=_preview(request))
        answer, replayed = await self._models.set_price(
            model_id=request.model_id,
            organization_id=organization_id,
            card=card_of(prices),
            effective_time=effective_time,
            repeatable=repeatable(request.request_id, "SetPrice", request),
            render=lambda version: pb.SetPriceResponse(price_version=render_version(version)).SerializeToString(),
        )
        response = pb.SetPriceResponse.FromString(answer)
        response.replayed = replayed
        return response

    async def ListPrices(
        self, request: pb.ListPricesRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListPricesResponse:
        if request.organization_id:
            require_membership(request.organization_id)
        fingerprint = f"prices/{request.model_id}/{request.organization_id}"
        limit = page_size(request.page_size)
        versions = await self._models.list_prices(
            model_id=request.model_id,
            organization_id=request.organization_id.lower() or None,
            before=_read_price_token(request.page_token, fingerprint),
            limit=limit,
        )
        token = ""
        if len(versions) == limit:
            last = versions[-1]
            token = encode_page_token(time_text(last.effective_time), last.price_version_id, fingerprint=fingerprint)
        return pb.ListPricesResponse(price_versions=map(render_version, versions), next_page_token=token)

    async def EstimateCost(
        self, request: pb.EstimateCostRequest, context: grpc.aio.ServicerContext
    ) -> pb.EstimateCostResponse:
        if request.organization_id:
            require_membership(request.organization_id)
        estimate = await self._models.estimate(
            model_id=request.model_id,
            organization_id=request.organization_id.lower(),
            tokens=read_tokens(request.tokens),
            occur_time=parse_optional_time("occur_time", request.occur_time, present=request.HasField("occur_time")),
        )
        return pb.EstimateCostResponse(
            cost=render_nanos(estimate.version.card.currency_code, estimate.priced.amount_nanos),
            price_version_id=estimate.version.price_version_id,
            lines=map(render_line, estimate.priced.lines),
        )


def read_tokens(tokens: pb.TokenCounts) -> Tokens:
    return (
        tokens.input,
        tokens.output,
        tokens.cache_read,
        tokens.cache_write,
        tokens.reasoning,
        tokens.audio_input,
        tokens.audio_output,
        tokens.image,
    )


def render_nanos(currency_code: str, nanos: int) -> amount_pb2.Amount:
    return amount_pb2.Amount(currency_code=currency_code, value=format_nanos(nanos))


def render_model(model: Model) -> pb.Model:
    return pb.Model(
        model_id=model.model_id,
        provider=model.provider,
        display_name=model.display_name,
        description=model.description,
        capabilities=model.capabilities,
        context_length=model.context_length,
        max_output_tokens=model.max_output_tokens,
        active=model.active,
        metadata=model.metadata,
        create_time=render_time(model.create_time),
        update_time=render_time(model.update_time),
        etag=str(model.revision),
    )


def render_version(version: PriceVersion) -> pb.PriceVersion:
    return pb.PriceVersion(
        price_version_id=version.price_version_id,
        model_id=version.model_id,
        organization_id=version.organization_id or "",
        currency_code=version.card.currency_code,
        prices=_render_prices(prices_of(version.card)),
        effective_time=render_time(version.effective_time),
        create_time=render_time(version.create_time),
        source=version.source,
    )


def _render_prices(prices: Prices | None) -> pb.TokenPrices | None:
    if prices is None:
        return None
    listed = dict(zip(TOKEN_CLASSES, prices.by_class, strict=True)) | {"per_request": prices.per_request}
    return pb.TokenPrices(**{name: format_amount(price) for name, price in listed.items() if price is not None})


_CLASSES: Final = {unit: name for name, unit in TOKEN_CLASS_UNITS.items()} | {REQUESTS: "request"}


def render_line(line: Line) -> pb.CostLine:
    rate = line.applied.rate
    return pb.CostLine(
        token_class=_CLASSES.get(line.unit_id, ""),
        quantity=int(line.quantity),
        unit_price=format_amount(rate.price),
        unit=line.unit_id,
        quantity_value=format(line.quantity.normalize(), "f"),
        per=rate.per,
        service_tier=rate.service_tier,
        above=rate.above,
        amount=format(line.amount.normalize(), "f"),
        provider_cost="" if line.provider_cost is None else format(line.provider_cost.normalize(), "f"),
        reason=line.applied.why,
    )


def _new_model(request: pb.CreateModelRequest) -> Model:
    unset = datetime.min.replace(tzinfo=UTC)  # the use case sets both times.
    return Model(
        model_id=request.model_id,
        provider=request.provider,
        display_name=request.display_name,
        description=request.description,
        capabilities=tuple(sorted(request.capabilities)),
        context_length=request.context_length,
        max_output_tokens=request.max_output_tokens,
        active=not request.inactive,
        metadata=dict(request.metadata),
        revision=0,
        create_time=unset,
        update_time=unset,
    )


def _require_mask(request: pb.UpdateModelRequest) -> None:
    paths = request.update_mask.paths
    if not paths or not set(paths) <= set(_UPDATABLE):
        raise InvalidArgument([FieldViolation("update_mask", f"must name fields out of {', '.join(_UPDATABLE)}")])


def _plain(path: str, request: pb.UpdateModelRequest) -> object:
    value: object = getattr(request, path)
    if path == "capabilities":
        return tuple(sorted(request.capabilities))
    if path == "metadata":
        return dict(request.metadata)
    return value


def _read_prices(currency_code: str, prices: pb.TokenPrices) -> Prices:
    def read(name: str) -> Decimal | None:
        text: str = getattr(prices, name)
        return Decimal(text) if text else None

    return Prices(currency_code, tuple(read(token_class) for token_class in TOKEN_CLASSES), read("per_request"))


def _effective_time(request: pb.SetPriceRequest | pb.ImportModelsRequest) -> datetime | None:
    return parse_optional_time("effective_time", request.effective_time, present=request.HasField("effective_time"))


def _preview(request: pb.SetPriceRequest) -> pb.PriceVersion:
    return pb.PriceVersion(
        model_id=request.model_id,
        organization_id=request.organization_id.lower(),
        currency_code=request.currency_code,
        prices=request.prices,
        effective_time=request.effective_time if request.HasField("effective_time") else None,
        source="SetPrice",
    )


def _read_price_token(token: str, fingerprint: str) -> tuple[datetime, str] | None:
    if not token:
        return None
    moment, price_version_id = decode_page_token(token, fingerprint)
    if not moment.isdigit() or not is_id(price_version_id):
        raise InvalidArgument([FieldViolation("page_token", "is not a token of this list")])
    return time_of_text(moment), price_version_id
