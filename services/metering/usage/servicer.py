"""Proto in, use case, proto out."""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import grpc

from libs.common import validation
from libs.common.amount import format_amount, parse_amount
from libs.common.call import is_operator, reaches
from libs.common.errors import FieldViolation, InvalidArgument, Refusal
from libs.common.ids import is_id
from libs.common.pages import decode_page_token, encode_page_token, foreign_token, page_size, that_fit, time_in_key
from libs.common.status import status_of_item
from libs.common.timestamps import parse_optional_time, parse_range, time_text
from libs.common.validation import Reader
from services.metering.errors import BackfillForOperatorsOnly, OrganizationNotFound
from services.metering.model.parsing import read_tokens, read_used
from services.metering.model.rates import STANDARD_TIER
from services.metering.model.units import Quantities, Units
from services.metering.usage.correction.corrections import Corrections
from services.metering.usage.correction.pending_prices import PendingPrices
from services.metering.usage.dimensions import LIVE, TEST
from services.metering.usage.domain import (
    EARLY_MAX,
    LATE_MAX,
    NO_QUANTITIES,
    Accepted,
    LimitState,
    Outcome,
    Recorded,
    Stated,
    Work,
    limits_to_tell,
    time_violation,
)
from services.metering.usage.export.exports import Exports
from services.metering.usage.export.servicer import ExportServicer
from services.metering.usage.parsing import read_corrects, read_description
from services.metering.usage.query_parsing import list_fingerprint, read_filters, read_organizations
from services.metering.usage.rendering import fill_balance, fill_limits, fill_usage, render_usage, shorten
from services.metering.usage.rerate.jobs import RerateJobs
from services.metering.usage.rerate.previews import Previews
from services.metering.usage.rerate.servicer import RerateServicer
from services.metering.usage.statistics.servicer import StatisticsServicer
from services.metering.usage.streaming.servicer import StreamingServicer, acknowledged
from services.metering.usage.streaming.watch import UsageWatch
from services.metering.usage.usages import LIST_RANGE_MAX, ListPlace, Usages
from tollhouse.metering.v1 import admission_pb2
from tollhouse.metering.v1 import usage_pb2 as pb
from tollhouse.metering.v1 import usage_pb2_grpc as rpc

DOMAIN: Final = "metering.tollhouse"
_FINGERPRINT_BYTES: Final = 16
_OPERATION_ID_MAX: Final = 255
_ID_LENGTH: Final = 36


class UsageServicer(RerateServicer, StatisticsServicer, ExportServicer, StreamingServicer, rpc.UsageServiceServicer):
    """Serves usage: what is recorded and asked for here, and what has rooms of its own."""

    def __init__(
        self,
        usages: Usages,
        corrections: Corrections,
        pending_prices: PendingPrices,
        previews: Previews,
        jobs: RerateJobs,
        exports: Exports,
        watch: UsageWatch,
    ) -> None:
        StreamingServicer.__init__(self, usages, corrections, pending_prices, watch)
        RerateServicer.__init__(self, previews, jobs)
        ExportServicer.__init__(self, exports)

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "RecordUsage": lambda request: check_usage(request, self._usages),
            "ListUsage": self._check_list,
            **self.statistics_readers,
            **self.correction_readers,
            **self.rerate_readers,
            **self.export_readers,
            **self.streaming_readers,
        }

    async def RecordUsage(
        self, request: pb.RecordUsageRequest, context: grpc.aio.ServicerContext
    ) -> pb.RecordUsageResponse:
        await self._usages.know_units(one.unit for one in request.quantities)
        work = read_usage(request, self._usages)
        (outcome,) = await self._usages.record([work], backfilled=(0,) if request.backfill else ())
        if isinstance(outcome, Exception):
            raise outcome
        return render_accepted(outcome, work.adjusted, self._usages.units)

    async def BatchRecordUsage(
        self, request: pb.BatchRecordUsageRequest, context: grpc.aio.ServicerContext
    ) -> pb.BatchRecordUsageResponse:
        response = pb.BatchRecordUsageResponse()
        await self._record(request.usages, [response.outcomes.add() for _ in request.usages])
        shorten(response, (one.recorded.usage for one in response.outcomes if one.HasField("recorded")))
        return response

    async def StreamUsage(
        self, request_iterator: AsyncIterator[pb.StreamUsageRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.StreamUsageResponse]:
        async for response in acknowledged(request_iterator, self._record):
            yield response

    async def _record(self, requests: Sequence[pb.RecordUsageRequest], outcomes: Sequence[pb.UsageOutcome]) -> None:
        """Record calls, at most 500, and write what became of each into its message, which is part of the answer."""
        recorded = await record_each(requests, self._usages)
        limits = limits_to_tell([outcome for outcome, _ in recorded])
        for target, usage, (outcome, adjusted), told in zip(outcomes, requests, recorded, limits, strict=True):
            _fill_outcome(target, usage, outcome, adjusted, self._usages.units, told)

    async def GetUsage(self, request: pb.GetUsageRequest, context: grpc.aio.ServicerContext) -> pb.GetUsageResponse:
        recorded = await self._usages.get(request.organization_id.lower(), request.operation_id)
        await self._usages.know_units(recorded.work.quantities)
        return await self._with_corrections(render_usage(recorded, self._usages.units), recorded)

    async def ListUsage(self, request: pb.ListUsageRequest, context: grpc.aio.ServicerContext) -> pb.ListUsageResponse:
        organization_ids = self._check_list(request)
        if not request.organization_id:
            return await self._list_over_organizations(request, organization_ids)
        start_time, end_time = list_range(request, self._usages.now())
        fingerprint = list_fingerprint(request, "start_time", "end_time")
        usages, following = await self._usages.list_usages(
            organization_id=request.organization_id.lower(),
            start_time=start_time,
            end_time=end_time,
            after=_read_list_token(request.page_token, fingerprint),
            filters=read_filters(request),
            limit=page_size(request.page_size),
        )
        rendered = await self._rendered(usages)
        if len(rendered) < len(usages):
            last = usages[len(rendered) - 1]
            following = last.work.occur_time, last.usage_id
        token = encode_page_token(time_text(following[0]), following[1], fingerprint=fingerprint) if following else ""
        dropped = await self._usages.dropped_months(request.organization_id.lower(), start_time, end_time)
        return pb.ListUsageResponse(usages=rendered, next_page_token=token, dropped_months=dropped)

    async def _list_over_organizations(
        self, request: pb.ListUsageRequest, organization_ids: Sequence[str]
    ) -> pb.ListUsageResponse:
        start_time, end_time = list_range(request, self._usages.now())
        fingerprint = list_fingerprint(request, "start_time", "end_time")
        usages, following = await self._usages.list_over_organizations(
            organization_ids=organization_ids,
            start_time=start_time,
            end_time=end_time,
            begin=_read_place(request.page_token, fingerprint),
            filters=read_filters(request),
            limit=page_size(request.page_size),
        )
        rendered = await self._rendered(usages)
        if len(rendered) < len(usages):
            last = usages[len(rendered) - 1]
            following = ListPlace(last.work.organization_id, (last.work.occur_time, last.usage_id))
        token = _place_token(following, fingerprint) if following else ""
        dropped = await self._usages.dropped_months(None, start_time, end_time)
        return pb.ListUsageResponse(usages=rendered, next_page_token=token, dropped_months=dropped)

    async def _rendered(self, usages: Sequence[Recorded]) -> list[pb.UsageRecord]:
        """Return as many usages, from the first on, as fit into a page."""
        await self._usages.know_units(unit_id for usage in usages for unit_id in usage.work.quantities)
        rendered = that_fit(render_usage(usage, self._usages.units) for usage in usages)
        await self._mark(rendered, usages)
        return rendered

    def _check_list(self, request: pb.ListUsageRequest) -> Sequence[str]:
        """Check what annotations cannot; return the organizations of a list over several.

        Raises:
            InvalidArgument: one organization and several are given, or the times are wrong.
        """
        violations: list[FieldViolation] = []
        organization_ids = read_organizations(request, violations)
        if violations:
            raise InvalidArgument(violations)
        list_range(request, self._usages.now())
        return organization_ids


async def record_each(
    requests: Sequence[pb.RecordUsageRequest | admission_pb2.SettleRequest], usages: Usages
) -> list[tuple[Outcome, Sequence[str]]]:
    """Record what is well formed; return each outcome with the fields that were adjusted."""
    await usages.know_units(one.unit for request in requests for one in request.quantities)
    outcomes: dict[int, tuple[Outcome, Sequence[str]]] = {}
    works: list[Work] = []
    places: list[int] = []
    backfilled: set[int] = set()
    for place, request in enumerate(requests):
        try:
            validation.check(request, lambda one: check_usage(one, usages))
            work = read_usage(request, usages)
        except Refusal as refusal:
            outcomes[place] = refusal, ()
            continue
        if isinstance(request, pb.RecordUsageRequest) and request.backfill:
            backfilled.add(len(works))
        works.append(work)
        places.append(place)
    if works:
        recorded = await usages.record(works, backfilled=backfilled)
        for place, work, outcome in zip(places, works, recorded, strict=True):
            outcomes[place] = outcome, work.adjusted
    return [outcomes[place] for place in range(len(requests))]


def list_range(
    request: pb.ListUsageRequest | admission_pb2.ListAuthorizationsRequest, now: datetime
) -> tuple[datetime, datetime]:
    """Read the times between which a list is asked for: the last 35 days where nothing is said.

    Raises:
        InvalidArgument: a time is no moment, or they are more than 400 days apart.
    """
    start_time, end_time = parse_range(request)
    end_time = end_time or now + EARLY_MAX
    start_time = start_time or end_time - LATE_MAX
    if not timedelta(0) <= end_time - start_time <= LIST_RANGE_MAX:
        raise InvalidArgument([FieldViolation("end_time", "must be at most 400 days after start_time")])
    return start_time, end_time


def read_usage(request: pb.RecordUsageRequest | admission_pb2.SettleRequest, usages: Usages) -> Work:
    """Read what was used. Both requests have the same fields under the same numbers, so they have the same fingerprint:
    a RecordUsage that repeats a Settle is recognised as a repeat.

    Raises:
        InvalidArgument: the time is no moment, or the quantities are wrong.
        BackfillForOperatorsOnly: another than an operator wants to load history.
        OrganizationNotFound: the key of the calling gateway does not reach the organization.
    """
    settles = isinstance(request, admission_pb2.SettleRequest)
    backfill = isinstance(request, pb.RecordUsageRequest) and request.backfill
    if backfill and not is_operator():
        raise BackfillForOperatorsOnly
    organization_id = request.organization_id.lower()
    if not reaches(organization_id):
        raise OrganizationNotFound(organization_id=organization_id)
    description = read_description(request)
    violations: list[FieldViolation] = []
    tokens = read_tokens(request.tokens)
    quantities = read_listed_quantities(request, usages.units, violations)
    stated = _read_stated(request, violations)
    if violations:
        raise InvalidArgument(violations)
    environment = request.environment if isinstance(request, pb.RecordUsageRequest) else pb.ENVIRONMENT_UNSPECIFIED
    return Work(
        organization_id=organization_id,
        operation_id=request.operation_id,
        fingerprint=_fingerprint(request, backfill),
        occur_time=_occur_time(request, usages),
        project_id=request.project_id.lower() or None,
        user_id=request.user_id.lower() or None,
        api_key_id=request.api_key_id.lower() or None,
        subscription_id=request.subscription_id.lower() or None,
        model=request.model,
        tokens=tokens,
        latency_ms=description.latency_ms,
        status_code=description.status_code,
        error_message=description.error_message,
        endpoint=description.endpoint,
        conversation_id=description.conversation_id,
        labels=description.labels,
        partial=request.partial,
        settles=settles,
        adjusted=description.adjusted,
        quantities=quantities,
        service_tier=request.service_tier or (None if settles else STANDARD_TIER),
        service_account_id=request.service_account_id.lower() or None,
        items=request.items or None,
        stated=stated,
        environment=TEST if environment == pb.ENVIRONMENT_TEST else LIVE,
        corrects_operation_id=read_corrects(request),
    )


def read_listed_quantities(
    request: pb.RecordUsageRequest
    | admission_pb2.SettleRequest
    | admission_pb2.AuthorizeRequest
    | admission_pb2.ExtendAuthorizationRequest,
    units: Units,
    violations: list[FieldViolation],
) -> Quantities:
    """Read the quantities of a request that are not zero; what is wrong is added to `violations`.

    Archived units are refused in an authorization here, and in usage once it is known whether it is a repeat. What is
    authorized may be extended in them.
    """
    if isinstance(request, admission_pb2.AuthorizeRequest):
        counts, total, archived = request.estimate, None, False
    elif isinstance(request, admission_pb2.ExtendAuthorizationRequest):
        counts, total, archived = request.estimate, None, True
    else:
        counts, archived = request.tokens, True
        total = request.total_tokens if request.HasField("total_tokens") else None
    if not request.quantities and total is None:
        return NO_QUANTITIES
    used = read_used(counts, request.quantities, total, units, violations, archived=archived)
    return {unit: value for unit, value in used.quantities.items() if value}


def _read_stated(
    request: pb.RecordUsageRequest | admission_pb2.SettleRequest, violations: list[FieldViolation]
) -> Stated | None:
    if not request.HasField("stated_amount"):
        return None
    amount = parse_amount("stated_amount", request.stated_amount, violations, minimum=Decimal(0))
    return Stated(format_amount(amount), request.stated_amount.currency_code)


def _fingerprint(request: pb.RecordUsageRequest | admission_pb2.SettleRequest, backfill: bool) -> bytes:
    """Return a digest of the request. What SettleRequest has no field for, and means nothing, has no part in it.

    Nor has it if a settlement says that it is the last, since it is unless it says otherwise.
    """
    if isinstance(request, admission_pb2.SettleRequest) and request.final:
        unsaid = admission_pb2.SettleRequest()
        unsaid.CopyFrom(request)
        unsaid.ClearField("final")
        request = unsaid
    if isinstance(request, pb.RecordUsageRequest) and (backfill or request.environment == pb.ENVIRONMENT_LIVE):
        plain = pb.RecordUsageRequest()
        plain.CopyFrom(request)
        plain.ClearField("backfill")
        if request.environment == pb.ENVIRONMENT_LIVE:
            plain.ClearField("environment")
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


def render_accepted(accepted: Accepted, adjusted: Sequence[str], units: Units) -> pb.RecordUsageResponse:
    response = pb.RecordUsageResponse()
    _fill_accepted(response, accepted, adjusted, units, accepted.limits)
    return response


def _fill_accepted(
    response: pb.RecordUsageResponse,
    accepted: Accepted,
    adjusted: Sequence[str],
    units: Units,
    limits: Sequence[LimitState],
) -> None:
    if adjusted:
        response.adjusted_fields.extend(adjusted)
    if accepted.replayed:
        response.replayed = True
    fill_usage(response.usage, accepted.recorded, units)
    if accepted.balance is not None:
        fill_balance(response.balance, accepted.balance)
    if limits:
        fill_limits(response, limits)


def _fill_outcome(
    target: pb.UsageOutcome,
    usage: pb.RecordUsageRequest,
    outcome: Outcome,
    adjusted: Sequence[str],
    units: Units,
    limits: Sequence[LimitState],
) -> None:
    target.operation_id = usage.operation_id[:_OPERATION_ID_MAX]
    target.organization_id = usage.organization_id[:_ID_LENGTH].lower()
    if isinstance(outcome, Exception):
        target.refused.CopyFrom(status_of_item(outcome, DOMAIN))
        return
    _fill_accepted(target.recorded, outcome, adjusted, units, limits)


def _read_list_token(token: str, fingerprint: str) -> tuple[datetime, str] | None:
    if not token:
        return None
    return _read_moment(decode_page_token(token, fingerprint))


def _read_place(token: str, fingerprint: str) -> ListPlace | None:
    """Read where a page of usages of several organizations begins."""
    if not token:
        return None
    parts = decode_page_token(token, fingerprint)
    if len(parts) not in (1, 3) or not is_id(parts[0]):
        raise foreign_token()
    return ListPlace(parts[0], _read_moment(parts[1:]) if len(parts) == 3 else None)


def _read_moment(parts: Sequence[str]) -> tuple[datetime, str]:
    if len(parts) != 2 or not is_id(parts[1]):
        raise foreign_token()
    return time_in_key(parts[0]), parts[1]


def _place_token(following: ListPlace, fingerprint: str) -> str:
    organization_id, before = following
    rest = () if before is None else (time_text(before[0]), before[1])
    return encode_page_token(organization_id, *rest, fingerprint=fingerprint)
