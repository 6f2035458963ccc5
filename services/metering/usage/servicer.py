"""Proto in, use case, proto out."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import grpc

from libs.common import validation
from libs.common.amount import format_amount
from libs.common.call import is_operator
from libs.common.errors import FieldViolation, InvalidArgument, Refusal
from libs.common.ids import is_id
from libs.common.pages import decode_page_token, encode_page_token, page_size
from libs.common.status import status_of_item
from libs.common.timestamps import (
    fill_time,
    parse_optional_time,
    parse_range,
    parse_time,
    render_time,
    time_of_text,
    time_text,
)
from libs.common.validation import Reader
from services.metering.clients.billing import AccountBalance
from services.metering.errors import BackfillForOperatorsOnly
from services.metering.model.quantity_requests import read_tokens
from services.metering.tables import TOKEN_CLASSES
from services.metering.usage.domain import EARLY_MAX, LATE_MAX, Accepted, Outcome, Recorded, Work, time_violation
from services.metering.usage.parsing import read_description
from services.metering.usage.summaries import RANGE_MAX, Query, Summary
from services.metering.usage.usages import LIST_RANGE_MAX, Usages
from services.metering.usage.windows import DAY, HOUR, MONTH, check_window_count, keeps_whole_hours, zone_named
from tollhouse.common.v1 import amount_pb2
from tollhouse.metering.v1 import admission_pb2, model_pb2
from tollhouse.metering.v1 import usage_pb2 as pb
from tollhouse.metering.v1 import usage_pb2_grpc as rpc

DOMAIN: Final = "metering.tollhouse"
STREAM_IN_PROGRESS_MAX: Final = 256
_FINGERPRINT_BYTES: Final = 16
_OPERATION_ID_MAX: Final = 255
_ID_LENGTH: Final = 36
_WINDOWS: Final = {
    pb.USAGE_WINDOW_UNSPECIFIED: None,
    pb.USAGE_WINDOW_HOUR: HOUR,
    pb.USAGE_WINDOW_DAY: DAY,
    pb.USAGE_WINDOW_MONTH: MONTH,
}
_DIMENSIONS: Final = {
    pb.USAGE_DIMENSION_MODEL: "model",
    pb.USAGE_DIMENSION_PROJECT: "project_id",
    pb.USAGE_DIMENSION_USER: "user_id",
    pb.USAGE_DIMENSION_API_KEY: "api_key_id",
}


class UsageServicer(rpc.UsageServiceServicer):
    """Serves usage."""

    def __init__(self, usages: Usages) -> None:
        self._usages = usages

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "RecordUsage": self._check_usage,
            "ListUsage": self._list_range,
            "QueryUsage": _read_query,
        }

    async def RecordUsage(
        self, request: pb.RecordUsageRequest, context: grpc.aio.ServicerContext
    ) -> pb.RecordUsageResponse:
        work = read_usage(request, self._usages)
        (outcome,) = await self._usages.record([work], backfilled=(0,) if request.backfill else ())
        if isinstance(outcome, Exception):
            raise outcome
        return render_accepted(outcome, work.adjusted)

    async def BatchRecordUsage(
        self, request: pb.BatchRecordUsageRequest, context: grpc.aio.ServicerContext
    ) -> pb.BatchRecordUsageResponse:
        response = pb.BatchRecordUsageResponse()
        outcomes = await self._record_each(request.usages)
        for usage, (outcome, adjusted) in zip(request.usages, outcomes, strict=True):
            _fill_outcome(response.outcomes.add(), usage, outcome, adjusted)
        return response

    async def StreamUsage(
        self, request_iterator: AsyncIterator[pb.StreamUsageRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.StreamUsageResponse]:
        acknowledged: asyncio.Queue[pb.StreamUsageResponse | None] = asyncio.Queue(STREAM_IN_PROGRESS_MAX)
        places = asyncio.Semaphore(STREAM_IN_PROGRESS_MAX)

        async def record(usage: pb.RecordUsageRequest) -> None:
            outcome: Outcome
            adjusted: Sequence[str] = ()
            try:
                ((outcome, adjusted),) = await self._record_each([usage])
            except Refusal as refusal:
                outcome = refusal
            response = pb.StreamUsageResponse()
            _fill_outcome(response.outcome, usage, outcome, adjusted)
            await acknowledged.put(response)

        async def read() -> None:
            broken: Refusal | None = None
            try:
                async with asyncio.TaskGroup() as group:
                    try:
                        async for request in request_iterator:
                            await places.acquire()
                            group.create_task(record(request.usage))
                    except Refusal as refusal:
                        broken = refusal
                if broken is not None:
                    raise broken
            finally:
                await acknowledged.put(None)

        reader = asyncio.create_task(read())
        try:
            while (response := await acknowledged.get()) is not None:
                places.release()
                yield response
            await reader
        finally:
            reader.cancel()

    async def GetUsage(self, request: pb.GetUsageRequest, context: grpc.aio.ServicerContext) -> pb.GetUsageResponse:
        recorded = await self._usages.get(request.organization_id.lower(), request.operation_id)
        return pb.GetUsageResponse(usage=render_usage(recorded))

    async def ListUsage(self, request: pb.ListUsageRequest, context: grpc.aio.ServicerContext) -> pb.ListUsageResponse:
        start_time, end_time = self._list_range(request)
        filters = (request.project_id, request.user_id, request.api_key_id)
        fingerprint = "/".join(("usage", request.organization_id.lower(), *filters, request.model))
        usages, following = await self._usages.list_usages(
            organization_id=request.organization_id.lower(),
            start_time=start_time,
            end_time=end_time,
            after=_read_list_token(request.page_token, fingerprint),
            filters=(*(value.lower() or None for value in filters), request.model or None),
            limit=page_size(request.page_size),
        )
        token = encode_page_token(time_text(following[0]), following[1], fingerprint=fingerprint) if following else ""
        return pb.ListUsageResponse(usages=map(render_usage, usages), next_page_token=token)

    async def QueryUsage(
        self, request: pb.QueryUsageRequest, context: grpc.aio.ServicerContext
    ) -> pb.QueryUsageResponse:
        query = _read_query(request)
        unpaged = pb.QueryUsageRequest()
        unpaged.CopyFrom(request)
        unpaged.ClearField("page_token")
        unpaged.ClearField("page_size")
        fingerprint = hashlib.blake2b(unpaged.SerializeToString(deterministic=True), digest_size=8).hexdigest()
        limit = page_size(request.page_size)
        after = decode_page_token(request.page_token, fingerprint) if request.page_token else None
        summaries = await self._usages.query(query, after=after, limit=limit)
        token = encode_page_token(*summaries[-1].key, fingerprint=fingerprint) if len(summaries) == limit else ""
        return pb.QueryUsageResponse(summaries=map(_render_summary, summaries), next_page_token=token)

    async def _record_each(self, requests: Sequence[pb.RecordUsageRequest]) -> list[tuple[Outcome, Sequence[str]]]:
        """Record what is well formed; return each outcome with the fields that were adjusted."""
        outcomes: dict[int, tuple[Outcome, Sequence[str]]] = {}
        works: list[Work] = []
        places: list[int] = []
        backfilled: set[int] = set()
        for place, request in enumerate(requests):
            try:
                validation.check(request, self._check_usage)
                work = read_usage(request, self._usages)
            except Refusal as refusal:
                outcomes[place] = refusal, ()
                continue
            if request.backfill:
                backfilled.add(len(works))
            works.append(work)
            places.append(place)
        if works:
            recorded = await self._usages.record(works, backfilled=backfilled)
            for place, work, outcome in zip(places, works, recorded, strict=True):
                outcomes[place] = outcome, work.adjusted
        return [outcomes[place] for place in range(len(requests))]

    def _check_usage(self, request: pb.RecordUsageRequest) -> None:
        check_usage(request, self._usages)

    def _list_range(self, request: pb.ListUsageRequest) -> tuple[datetime, datetime]:
        start_time, end_time = parse_range(request)
        end_time = end_time or self._usages.now() + EARLY_MAX
        start_time = start_time or end_time - LATE_MAX
        if not timedelta(0) <= end_time - start_time <= LIST_RANGE_MAX:
            raise InvalidArgument([FieldViolation("end_time", "must be at most 400 days after start_time")])
        return start_time, end_time


def read_usage(request: pb.RecordUsageRequest | admission_pb2.SettleRequest, usages: Usages) -> Work:
    """Read what was used. Both requests have the same fields under the same numbers, so they have the same fingerprint:
    a RecordUsage that repeats a Settle is recognised as a repeat.

    Raises:
        InvalidArgument: the time is no moment.
        BackfillForOperatorsOnly: another than an operator wants to load history.
    """
    settles = isinstance(request, admission_pb2.SettleRequest)
    backfill = isinstance(request, pb.RecordUsageRequest) and request.backfill
    if backfill and not is_operator():
        raise BackfillForOperatorsOnly
    description = read_description(request)
    return Work(
        organization_id=request.organization_id.lower(),
        operation_id=request.operation_id,
        fingerprint=_fingerprint(request, backfill),
        occur_time=_occur_time(request, usages),
        project_id=request.project_id.lower() or None,
        user_id=request.user_id.lower() or None,
        api_key_id=request.api_key_id.lower() or None,
        subscription_id=request.subscription_id.lower() or None,
        model=request.model,
        tokens=read_tokens(request.tokens),
        latency_ms=description.latency_ms,
        status_code=description.status_code,
        error_message=description.error_message,
        endpoint=description.endpoint,
        conversation_id=description.conversation_id,
        labels=description.labels,
        partial=request.partial,
        settles=settles,
        adjusted=description.adjusted,
    )


def _fingerprint(request: pb.RecordUsageRequest | admission_pb2.SettleRequest, backfill: bool) -> bytes:
    if backfill and isinstance(request, pb.RecordUsageRequest):
        plain = pb.RecordUsageRequest()
        plain.CopyFrom(request)
        plain.ClearField("backfill")
        request = plain
    body = request.SerializeToString(deterministic=True)
    return hashlib.blake2b(body, digest_size=_FINGERPRINT_BYTES).digest()


def check_usage(request: pb.RecordUsageRequest | admission_pb2.SettleRequest, usages: Usages) -> None:
    """Check what annotations cannot, of a request that they refuse anyway: its age counts, since it is no repeat.

    Raises:
        InvalidArgument: the time is no moment, or outside the window in which usage is taken.
        BackfillForOperatorsOnly: another than an operator wants to load history.
    """
    work = read_usage(request, usages)
    backfilled = isinstance(request, pb.RecordUsageRequest) and request.backfill
    violation = time_violation(work.occur_time, usages.now(), backfilled=backfilled)
    if violation is not None:
        raise InvalidArgument([violation])


def _occur_time(request: pb.RecordUsageRequest | admission_pb2.SettleRequest, usages: Usages) -> datetime:
    occur_time = parse_optional_time("occur_time", request.occur_time, present=request.HasField("occur_time"))
    return occur_time or usages.now()


def render_accepted(accepted: Accepted, adjusted: Sequence[str]) -> pb.RecordUsageResponse:
    response = pb.RecordUsageResponse()
    _fill_accepted(response, accepted, adjusted)
    return response


def _fill_accepted(response: pb.RecordUsageResponse, accepted: Accepted, adjusted: Sequence[str]) -> None:
    if adjusted:
        response.adjusted_fields.extend(adjusted)
    if accepted.replayed:
        response.replayed = True
    fill_usage(response.usage, accepted.recorded)
    if accepted.balance is not None:
        fill_balance(response.balance, accepted.balance)


def render_usage(recorded: Recorded) -> pb.UsageRecord:
    record = pb.UsageRecord()
    fill_usage(record, recorded)
    return record


def fill_usage(record: pb.UsageRecord, recorded: Recorded) -> None:
    """Fill a message in place: building it apart and copying it into each level of the answer would double the cost."""
    work, cost = recorded.work, recorded.cost
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
    if cost is not None:
        amount = record.cost
        amount.currency_code = cost.currency_code
        amount.value = cost.amount
        record.price_version_id = cost.price_version_id
    record.settlement = _SETTLEMENTS[recorded.settlement]
    if recorded.refusal_reason:
        record.settlement_reason = recorded.refusal_reason


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
    _fill_amount(message.posted, currency_code, posted)
    _fill_amount(message.held, currency_code, held)
    _fill_amount(message.available, currency_code, available)


def _fill_amount(amount: amount_pb2.Amount, currency_code: str, value: str) -> None:
    amount.currency_code = currency_code
    amount.value = value


def _fill_outcome(
    target: pb.UsageOutcome, usage: pb.RecordUsageRequest, outcome: Outcome, adjusted: Sequence[str]
) -> None:
    target.operation_id = usage.operation_id[:_OPERATION_ID_MAX]
    target.organization_id = usage.organization_id[:_ID_LENGTH].lower()
    if isinstance(outcome, Exception):
        target.refused.CopyFrom(status_of_item(outcome, DOMAIN))
        return
    _fill_accepted(target.recorded, outcome, adjusted)


def _read_list_token(token: str, fingerprint: str) -> tuple[datetime, str] | None:
    if not token:
        return None
    parts = decode_page_token(token, fingerprint)
    if len(parts) != 2 or not parts[0].isdigit() or not is_id(parts[1]):
        raise InvalidArgument([FieldViolation("page_token", "is not a token of this list")])
    return time_of_text(parts[0]), parts[1]


def _read_query(request: pb.QueryUsageRequest) -> Query:
    violations: list[FieldViolation] = []
    start_time = parse_time("start_time", request.start_time, violations)
    end_time = parse_time("end_time", request.end_time, violations)
    if not violations and not timedelta(0) < end_time - start_time <= RANGE_MAX:
        violations.append(FieldViolation("end_time", "must be after start_time, at most 3660 days"))
    window, zone = _WINDOWS.get(request.window), zone_named(request.time_zone, violations)
    if not violations:
        check_window_count(window, start_time, end_time, violations)
        if window in (DAY, MONTH) and not keeps_whole_hours(zone, start_time, end_time):
            violations.append(FieldViolation("time_zone", "is off UTC by part of an hour; ask by HOUR"))
    if violations:
        raise InvalidArgument(violations)
    group_by = set(request.group_by)
    return Query(
        organization_id=request.organization_id.lower(),
        start_time=start_time.replace(minute=0, second=0, microsecond=0),
        end_time=_full_hour_after(end_time),
        window=window,
        group_by=tuple(name for dimension, name in _DIMENSIONS.items() if dimension in group_by),
        filters={
            "model": list(request.models),
            "project_id": [value.lower() for value in request.project_ids],
            "user_id": [value.lower() for value in request.user_ids],
            "api_key_id": [value.lower() for value in request.api_key_ids],
        },
        zone=zone,
    )


def _full_hour_after(moment: datetime) -> datetime:
    hour = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return hour if hour == moment else hour + timedelta(hours=1)


def _render_summary(summary: Summary) -> pb.UsageSummary:
    cost = None
    if summary.currency_code:
        cost = amount_pb2.Amount(currency_code=summary.currency_code, value=format_amount(summary.cost))
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
        latency=pb.LatencySummary(
            count=summary.latency_count, sum_ms=summary.latency_sum_ms, buckets=summary.latency_buckets
        ),
    )
