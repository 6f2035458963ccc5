"""The gRPC service of models and prices: requests are parsed, use cases called, responses rendered."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Final

import grpc

from libs.common.call import require_membership
from libs.common.errors import FieldViolation, InvalidArgument, Overloaded
from libs.common.ids import is_id
from libs.common.pages import (
    decode_page_token,
    encode_page_token,
    foreign_token,
    page_size,
    text_in_token,
    that_fit,
    time_in_key,
)
from libs.common.repeats.parsing import repeatable
from libs.common.timestamps import parse_optional_time, time_text
from libs.common.update_mask import mask_violations
from libs.common.validation import Reader
from services.metering.model.domain import Model
from services.metering.model.models import Call, Models, NewPrice
from services.metering.model.parsing import (
    ReceivedPriceList,
    check_price,
    read_import,
    read_price,
    read_used,
    receive_options,
    receive_price_list,
)
from services.metering.model.price_import import ImportOutcome, PriceImport
from services.metering.model.price_list import PriceList
from services.metering.model.rates import STANDARD_TIER, RateCard
from services.metering.model.rendering import (
    ANSWER_BYTES_MAX,
    answer_bytes_max,
    outcome_parts,
    render_card,
    render_estimate,
    render_import,
    render_model,
    render_prices,
    render_version,
    summary_of,
)
from services.metering.model.units import Units
from tollhouse.metering.v1 import model_pb2 as pb
from tollhouse.metering.v1 import model_pb2_grpc as rpc

_BY_HAND: Final = "price_set_by_hand"
_UPDATABLE: Final = (
    "provider",
    "display_name",
    "description",
    "capabilities",
    "context_length",
    "max_output_tokens",
    "active",
    "metadata",
    _BY_HAND,
)
# Less than the age at which the server closes a connection, so that the caller is told the reason.
_STREAMED_IMPORT_MAX_S: Final = 240.0
_PROGRESS_EVERY_S: Final = 0.5


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
            "UpdateModel": _check_update,
            "SetPrice": lambda request: check_price(request, self._models.units),
            "EstimateCost": lambda request: _read_call(request, self._models.units),
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
        capabilities = sorted(set(request.capabilities))
        fingerprint = f"models/{request.provider}/{request.active_only}/{capabilities}"
        limit = page_size(request.page_size)
        found = await self._models.list_models(
            after=text_in_token(request.page_token, fingerprint) or "",
            provider=request.provider,
            capabilities=capabilities,
            active_only=request.active_only,
            limit=limit,
        )
        models = that_fit(map(render_model, found))
        has_more = len(found) == limit or len(models) < len(found)
        token = encode_page_token(models[-1].model_id, fingerprint=fingerprint) if has_more else ""
        return pb.ListModelsResponse(models=models, next_page_token=token)

    async def UpdateModel(
        self, request: pb.UpdateModelRequest, context: grpc.aio.ServicerContext
    ) -> pb.UpdateModelResponse:
        _check_update(request)
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
        received = read_import(request)
        units = await self._price_import.units()
        # Parsing takes a fraction of a second, so it runs in a thread and does not block other calls.
        entries = await asyncio.to_thread(received.read, units)
        too_long = "has more entries than fit into one response; use StreamImportModels"
        if answer_bytes_max(entries) > ANSWER_BYTES_MAX:
            raise InvalidArgument([FieldViolation(received.field, too_long)])
        response = render_import(await self._run_import(received, entries))
        # How long the changes are is known at last, and an import that shows them changes nothing.
        if response.ByteSize() > ANSWER_BYTES_MAX:
            raise InvalidArgument([FieldViolation(received.field, too_long)])
        return response

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
        for part in outcome_parts(outcomes):
            yield pb.StreamImportModelsResponse(outcomes=part)
        yield pb.StreamImportModelsResponse(summary=summary_of(outcomes))

    async def _import_with_progress(
        self, received: ReceivedPriceList, progress: pb.ImportProgress
    ) -> list[ImportOutcome]:
        """Parse and import a list, and update `progress` meanwhile."""
        entries = await asyncio.to_thread(received.read, await self._price_import.units())
        progress.entry_count = len(entries)

        def on_progress(decided: int) -> None:
            progress.decided_count = decided

        return await self._run_import(received, entries, on_progress)

    async def _run_import(
        self, received: ReceivedPriceList, entries: PriceList, on_progress: Callable[[int], None] = lambda _: None
    ) -> list[ImportOutcome]:
        return await self._price_import.run(
            entries,
            source=received.source,
            effective_time=received.effective_time,
            validate_only=received.validate_only,
            on_progress=on_progress,
        )

    async def SetPrice(self, request: pb.SetPriceRequest, context: grpc.aio.ServicerContext) -> pb.SetPriceResponse:
        price = NewPrice(
            model_id=request.model_id,
            organization_id=request.organization_id.lower() or None,
            effective_time=_effective_time(request),
            base_version_id=request.margin.price_version_id.lower(),
            read_card=partial(read_price, request),
        )
        if request.validate_only:
            return pb.SetPriceResponse(price_version=_preview(request, await self._models.check_price(price)))
        answer, replayed = await self._models.set_price(
            price,
            repeatable(request.request_id, "SetPrice", request),
            lambda version: pb.SetPriceResponse(price_version=render_version(version)).SerializeToString(),
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
        rendered = that_fit(map(render_version, versions))
        token = ""
        if len(rendered) == limit or len(rendered) < len(versions):
            last = versions[len(rendered) - 1]
            token = encode_page_token(time_text(last.effective_time), last.price_version_id, fingerprint=fingerprint)
        return pb.ListPricesResponse(price_versions=rendered, next_page_token=token)

    async def EstimateCost(
        self, request: pb.EstimateCostRequest, context: grpc.aio.ServicerContext
    ) -> pb.EstimateCostResponse:
        if request.organization_id:
            require_membership(request.organization_id)
        occur_time = parse_optional_time("occur_time", request.occur_time, present=request.HasField("occur_time"))
        estimate = await self._models.estimate(partial(_read_call, request), occur_time)
        return render_estimate(estimate)


def _read_call(request: pb.EstimateCostRequest, units: Units) -> Call:
    violations: list[FieldViolation] = []
    total_tokens = request.total_tokens if request.HasField("total_tokens") else None
    used = read_used(request.tokens, request.quantities, total_tokens, units, violations)
    if violations:
        raise InvalidArgument(violations)
    return Call(
        model_id=request.model_id,
        organization_id=request.organization_id.lower(),
        tokens=used.tokens,
        quantities=used.quantities,
        total_tokens=used.total_tokens,
        service_tier=request.service_tier or STANDARD_TIER,
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


def _check_update(request: pb.UpdateModelRequest) -> None:
    paths = set(request.update_mask.paths)
    violations = mask_violations(paths, _UPDATABLE)
    if _BY_HAND in paths and request.price_set_by_hand:
        rule = "can only be set to false: SetPrice sets it to true"
        violations.append(FieldViolation(_BY_HAND, rule))
    if violations:
        raise InvalidArgument(violations)


def _plain(path: str, request: pb.UpdateModelRequest) -> object:
    value: object = getattr(request, path)
    if path == "capabilities":
        return tuple(sorted(request.capabilities))
    if path == "metadata":
        return dict(request.metadata)
    return value


def _effective_time(request: pb.SetPriceRequest) -> datetime | None:
    return parse_optional_time("effective_time", request.effective_time, present=request.HasField("effective_time"))


def _preview(request: pb.SetPriceRequest, card: RateCard) -> pb.PriceVersion:
    return pb.PriceVersion(
        model_id=request.model_id,
        organization_id=request.organization_id.lower(),
        currency_code=request.currency_code,
        prices=request.prices if request.HasField("prices") else render_prices(card),
        effective_time=request.effective_time if request.HasField("effective_time") else None,
        source="SetPrice",
        rate_card=render_card(card),
    )


def _read_price_token(token: str, fingerprint: str) -> tuple[datetime, str] | None:
    if not token:
        return None
    key = decode_page_token(token, fingerprint)
    if len(key) != 2 or not is_id(key[1]):
        raise foreign_token()
    return time_in_key(key[0]), key[1]
