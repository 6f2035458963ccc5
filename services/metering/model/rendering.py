"""The catalogue's answers as messages."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Final

from libs.common.amount import format_amount
from libs.common.timestamps import render_time
from services.metering.model.domain import REQUESTS, Model, PriceVersion, format_nanos, prices_of
from services.metering.model.hours import ALL_DAY, EVERY_DAY, Hours, Span, time_of
from services.metering.model.models import Estimate
from services.metering.model.price_import import IMPORTED, KEPT, SKIPPED, UNCHANGED, ImportOutcome
from services.metering.model.price_list import ListedModel, PriceList
from services.metering.model.rate_changes import RateChange
from services.metering.model.rates import Line, Rate, RateCard
from services.metering.model.units import CLASS_OF_UNIT
from services.metering.tables import TOKEN_CLASSES
from tollhouse.common.v1 import amount_pb2
from tollhouse.metering.v1 import model_pb2 as pb

ANSWER_BYTES_MAX: Final = 4_000_000
"""Clients accept messages of up to 4 MiB."""
_PART_BYTES_MAX: Final = 2_000_000
"""What one answer of several has at most."""
_OUTCOMES_PER_PART: Final = 100
_CHANGES_MAX: Final = 64
# The size of the price version's id, the result, and the tags and lengths of the fields.
_OUTCOME_BYTES: Final = 64
_TEXT_BYTES: Final = 4
_CLASSES: Final = {**CLASS_OF_UNIT, REQUESTS: "request"}


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
        price_set_by_hand=model.price_set_by_hand,
    )


def render_version(version: PriceVersion) -> pb.PriceVersion:
    return pb.PriceVersion(
        price_version_id=version.price_version_id,
        model_id=version.model_id,
        organization_id=version.organization_id or "",
        currency_code=version.card.currency_code,
        prices=render_prices(version.card),
        effective_time=render_time(version.effective_time),
        create_time=render_time(version.create_time),
        source=version.source,
        rate_card=render_card(version.card),
    )


def render_prices(card: RateCard) -> pb.TokenPrices | None:
    """Return the prices of the token classes, where they say all that the card does."""
    prices = prices_of(card)
    if prices is None:
        return None
    listed = dict(zip(TOKEN_CLASSES, prices.by_class, strict=True)) | {"per_request": prices.per_request}
    return pb.TokenPrices(**{name: format_amount(price) for name, price in listed.items() if price is not None})


def render_card(card: RateCard) -> pb.RateCard:
    """Return a card, with its rates for hours after those for all day, as a stored card has them."""
    return pb.RateCard(
        rates=map(_render_rate, sorted(card.rates, key=lambda rate: rate.hours != ALL_DAY)),
        fallbacks=[pb.Fallback(unit=unit_id, priced_as=target) for unit_id, target in sorted(card.fallbacks.items())],
        provider_currency_code=card.provider_currency_code or "",
        factor="" if card.factor == 1 else format_amount(card.factor),
        time_zone=card.schedule.time_zone if card.schedule else "",
        hours=map(_render_hours, card.schedule.hours if card.schedule else ()),
    )


def _render_hours(hours: Hours) -> pb.Hours:
    return pb.Hours(name=hours.name, spans=map(_render_span, hours.spans))


def _render_span(span: Span) -> pb.Span:
    weekdays = () if span.weekdays == EVERY_DAY else map(pb.Weekday.ValueType, span.weekdays)
    return pb.Span(start=time_of(span.start), end=time_of(span.end), weekdays=weekdays)


def _render_rate(rate: Rate) -> pb.Rate:
    return pb.Rate(
        unit=rate.unit_id,
        price=format_amount(rate.price),
        per=rate.per,
        service_tier=rate.service_tier,
        above=rate.above,
        provider_cost=_optional(rate.provider_cost),
        hours=rate.hours,
    )


def render_estimate(estimate: Estimate) -> pb.EstimateCostResponse:
    card, priced = estimate.version.card, estimate.priced
    response = pb.EstimateCostResponse(
        cost=_render_nanos(card.currency_code, priced.amount_nanos),
        price_version_id=estimate.version.price_version_id,
        lines=map(_render_line, priced.lines),
        total_tokens=estimate.total_tokens,
        hours=estimate.hours,
        wall_clock="" if estimate.wall_clock is None else estimate.wall_clock.isoformat(timespec="seconds"),
    )
    if card.provider_currency_code is not None and priced.provider_cost_nanos is not None:
        response.provider_cost.CopyFrom(_render_nanos(card.provider_currency_code, priced.provider_cost_nanos))
    return response


def _render_line(line: Line) -> pb.CostLine:
    rate = line.applied.rate
    return pb.CostLine(
        token_class=_CLASSES.get(line.unit_id, ""),
        quantity=int(line.quantity),
        unit_price=format_amount(rate.price),
        unit=line.unit_id,
        quantity_value=format_amount(line.quantity),
        per=rate.per,
        service_tier=rate.service_tier,
        above=rate.above,
        amount=format_amount(line.amount),
        provider_cost=_optional(line.provider_cost),
        reason=line.applied.why,
        hours=rate.hours,
    )


def _optional(value: Decimal | None) -> str:
    return "" if value is None else format_amount(value)


def _render_nanos(currency_code: str, nanos: int) -> amount_pb2.Amount:
    return amount_pb2.Amount(currency_code=currency_code, value=format_nanos(nanos))


def render_import(outcomes: Sequence[ImportOutcome]) -> pb.ImportModelsResponse:
    summary = summary_of(outcomes)
    return pb.ImportModelsResponse(
        outcomes=map(_render_outcome, outcomes),
        imported_count=summary.imported_count,
        unchanged_count=summary.unchanged_count,
        skipped_count=summary.skipped_count,
        kept_count=summary.kept_count,
    )


def outcome_parts(outcomes: Sequence[ImportOutcome]) -> Iterator[pb.ImportOutcomes]:
    """Yield the outcomes in parts, each of which fits into a message."""
    part, size = pb.ImportOutcomes(), 0
    for outcome in outcomes:
        message = _render_outcome(outcome)
        size += message.ByteSize()
        if len(part.outcomes) == _OUTCOMES_PER_PART or (part.outcomes and size > _PART_BYTES_MAX):
            yield part
            part, size = pb.ImportOutcomes(), message.ByteSize()
        part.outcomes.append(message)
    if part.outcomes:
        yield part


def _render_outcome(outcome: ImportOutcome) -> pb.ImportOutcome:
    more = len(outcome.changes) - _CHANGES_MAX
    return pb.ImportOutcome(
        model_id=outcome.model_id,
        result=pb.ImportResult.Value(f"IMPORT_RESULT_{outcome.result}"),
        reason=outcome.reason,
        price_version_id=outcome.price_version_id,
        warnings=outcome.warnings,
        ignored_price_keys=outcome.ignored_price_keys,
        changes=[
            *map(_render_change, outcome.changes[:_CHANGES_MAX]),
            *([pb.RateChange(after=f"and {more} more")] if more > 0 else []),
        ],
    )


def _render_change(change: RateChange) -> pb.RateChange:
    return pb.RateChange(
        unit=change.unit_id,
        service_tier=change.service_tier,
        above=change.above,
        before=change.before,
        after=change.after,
        hours=change.hours,
    )


def summary_of(outcomes: Sequence[ImportOutcome]) -> pb.ImportSummary:
    counts = {
        result: sum(outcome.result == result for outcome in outcomes) for result in (IMPORTED, UNCHANGED, SKIPPED, KEPT)
    }
    return pb.ImportSummary(
        imported_count=counts[IMPORTED],
        unchanged_count=counts[UNCHANGED],
        skipped_count=counts[SKIPPED],
        kept_count=counts[KEPT],
    )


def answer_bytes_max(entries: PriceList) -> int:
    """Return an upper bound of the size of the outcomes of a list as messages, without the changes they may show."""
    total = 0
    for entry in entries:
        texts: Sequence[str] = [entry.model_id]
        if isinstance(entry, ListedModel):
            texts = [*texts, *entry.warnings, *entry.ignored_price_keys]
        else:
            texts = [*texts, entry.reason]
        total += _OUTCOME_BYTES + sum(_TEXT_BYTES + len(text.encode()) for text in texts)
    return total
