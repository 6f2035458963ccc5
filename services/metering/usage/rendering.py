"""Usage and its sums as messages."""

import json
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final

from libs.common.amount import format_amount, render_amount
from libs.common.pages import Sized
from libs.common.timestamps import fill_time, render_time
from services.metering.clients.billing import AccountBalance
from services.metering.model.rates import STANDARD_TIER
from services.metering.model.units import Units, quantity_text, total_tokens
from services.metering.quota.rendering import fill_statuses
from services.metering.tables import TOKEN_CLASSES
from services.metering.usage.dimensions import TEST
from services.metering.usage.domain import Cost, LimitState, Recorded, Work
from services.metering.usage.latencies import percentile_ms
from services.metering.usage.query import ORGANIZATION, UNIT
from services.metering.usage.summaries import Summary
from tollhouse.common.v1 import amount_pb2
from tollhouse.metering.v1 import admission_pb2, model_pb2, unit_pb2
from tollhouse.metering.v1 import usage_pb2 as pb

_NAMES: Final = {UNIT: "unit"}
_RATE: Final = Decimal("0.000001")
_MEAN: Final = Decimal("0.001")
_OWN_FIELDS: Final = ("organization_id", "model", "project_id", "user_id", "api_key_id")
ANSWER_MAX: Final = 4_000_000
"""The most bytes of the answer to a batch: clients take messages of up to 4 MiB."""


def shorten(answer: Sized, usages: Iterable[pb.UsageRecord]) -> None:
    """Leave out of the usages of an answer what callers have sent, where it would be too large to be sent."""
    if answer.ByteSize() > ANSWER_MAX:
        for usage in usages:
            usage.ClearField("labels")
            usage.ClearField("error_message")
            usage.ClearField("endpoint")
            usage.ClearField("conversation_id")
            usage.ClearField("quantities")


def render_usage(recorded: Recorded, units: Units) -> pb.UsageRecord:
    record = pb.UsageRecord()
    fill_usage(record, recorded, units)
    return record


def fill_usage(record: pb.UsageRecord, recorded: Recorded, units: Units) -> None:
    """Fill a message in place: building it apart and copying it into each level of the answer would double the cost."""
    work = recorded.work
    record.usage_id = recorded.usage_id
    record.operation_id = work.operation_id
    record.organization_id = work.organization_id
    record.model = work.model
    _fill_optional_texts(record, work)
    tokens = record.tokens
    for name, count in zip(TOKEN_CLASSES, work.tokens, strict=True):
        if count:
            setattr(tokens, name, count)
    fill_time(record.occur_time, work.occur_time)
    fill_time(record.create_time, recorded.create_time)
    if work.latency_ms is not None:
        record.latency_ms = work.latency_ms
    if work.status_code is not None:
        record.status_code = work.status_code
    if work.labels:
        record.labels.update(json.loads(work.labels))
    if work.partial:
        record.partial = True
    _fill_quantities(record, work, units)
    record.service_tier = work.service_tier or STANDARD_TIER
    record.environment = pb.ENVIRONMENT_TEST if work.environment == TEST else pb.ENVIRONMENT_LIVE
    if recorded.dimensions.provider:
        record.provider = recorded.dimensions.provider
    if work.stated is not None:
        record.stated = True
    fill_settlement(record, recorded)


def fill_settlement(record: pb.UsageRecord, recorded: Recorded) -> None:
    """Fill in what usage costs, and whether that is charged."""
    if recorded.cost is not None:
        _fill_cost(record, recorded.cost)
    record.settlement = _SETTLEMENTS[recorded.settlement]
    if recorded.refusal_reason:
        record.settlement_reason = recorded.refusal_reason


def _fill_cost(record: pb.UsageRecord, cost: Cost) -> None:
    fill_amount(record.cost, cost.currency_code, cost.amount)
    if cost.price_version_id is not None:
        record.price_version_id = cost.price_version_id
    if cost.provider_cost is not None and cost.provider_currency_code is not None:
        fill_amount(record.provider_cost, cost.provider_currency_code, cost.provider_cost)


def _fill_quantities(record: pb.UsageRecord, work: Work, units: Units) -> None:
    record.total_tokens = sum(work.tokens)
    if work.quantities:
        record.total_tokens += total_tokens(work.quantities, units)
        for unit, value in sorted(work.quantities.items()):
            record.quantities.add(unit=unit, value=quantity_text(value))
    if work.items is not None:
        record.items = work.items


def _fill_optional_texts(record: pb.UsageRecord, work: Work) -> None:
    # Field by field: a loop over names with setattr would cost more than the rest of the record.
    if work.project_id is not None:
        record.project_id = work.project_id
    if work.user_id is not None:
        record.user_id = work.user_id
    if work.api_key_id is not None:
        record.api_key_id = work.api_key_id
    if work.subscription_id is not None:
        record.subscription_id = work.subscription_id
    if work.service_account_id is not None:
        record.service_account_id = work.service_account_id
    if work.error_message is not None:
        record.error_message = work.error_message
    if work.endpoint is not None:
        record.endpoint = work.endpoint
    if work.conversation_id is not None:
        record.conversation_id = work.conversation_id


_SETTLEMENTS: Final = {
    "PENDING": pb.SETTLEMENT_PENDING,
    "SETTLED": pb.SETTLEMENT_SETTLED,
    "PENDING_PRICE": pb.SETTLEMENT_PENDING_PRICE,
    "REFUSED": pb.SETTLEMENT_REFUSED,
}


def fill_balance(message: pb.AccountBalance, balance: AccountBalance) -> None:
    """Fill a message with a balance, in place."""
    currency_code, posted, held, available = balance
    fill_amount(message.posted, currency_code, posted)
    fill_amount(message.held, currency_code, held)
    fill_amount(message.available, currency_code, available)


def fill_amount(amount: amount_pb2.Amount, currency_code: str, value: str) -> None:
    amount.currency_code = currency_code
    amount.value = value


def fill_limits(response: admission_pb2.SettleResponse | pb.RecordUsageResponse, limits: Sequence[LimitState]) -> None:
    """Write where limits stand that count the usage."""
    fill_statuses(response, limits)


def render_summary(summary: Summary, units: Units) -> pb.UsageSummary:
    cost = provider_cost = margin = None
    if summary.currency_code:
        cost = amount_pb2.Amount(currency_code=summary.currency_code, value=format_amount(summary.cost))
    if summary.provider_currency_code:
        value = format_amount(summary.provider_cost)
        provider_cost = amount_pb2.Amount(currency_code=summary.provider_currency_code, value=value)
        if summary.provider_currency_code == summary.currency_code:
            margin = render_amount(summary.currency_code, summary.cost - summary.provider_cost)
    further = {_NAMES.get(name, name): value for name, value in summary.dimensions.items() if name not in _OWN_FIELDS}
    return pb.UsageSummary(
        start_time=render_time(summary.start_time),
        end_time=render_time(summary.end_time),
        model=summary.dimensions.get("model", ""),
        project_id=summary.dimensions.get("project_id", ""),
        user_id=summary.dimensions.get("user_id", ""),
        api_key_id=summary.dimensions.get("api_key_id", ""),
        request_count=summary.requests,
        error_count=summary.errors,
        tokens=model_pb2.TokenCounts(**dict(zip(TOKEN_CLASSES, summary.tokens, strict=True))),
        cost=cost,
        latency=_render_latency(summary),
        quantities=[
            unit_pb2.Quantity(unit=unit, value=quantity_text(value))
            for unit, value in sorted(summary.quantities.items())
        ],
        total_tokens=sum(summary.tokens) + total_tokens(summary.quantities, units),
        provider_cost=provider_cost,
        dimensions=further,
        organization_id=summary.dimensions.get(ORGANIZATION, ""),
        error_rate=_ratio(summary.errors, summary.requests, _RATE),
        margin=margin,
        rank=summary.rank,
        others=summary.is_others,
    )


def _render_latency(summary: Summary) -> pb.LatencySummary:
    count, buckets = summary.latency_count, summary.latency_buckets
    return pb.LatencySummary(
        count=count,
        sum_ms=summary.latency_sum_ms,
        buckets=buckets,
        mean_ms=_ratio(summary.latency_sum_ms, count, _MEAN),
        p50_ms=percentile_ms(buckets, 50),
        p95_ms=percentile_ms(buckets, 95),
        p99_ms=percentile_ms(buckets, 99),
    )


def _ratio(part: int, whole: int, digits: Decimal) -> str:
    """Return a ratio as a decimal, rounded half to even; empty where there is none."""
    return format_amount((Decimal(part) / whole).quantize(digits)) if whole else ""
