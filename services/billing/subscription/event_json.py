"""What is stored of an event beside its columns: JSON with amounts and times as text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, TypedDict, cast

from libs.common.amount import format_amount
from services.billing.plan.terms_json import MoneyJson, money_json, money_of_json
from services.billing.subscription.domain import AgreedPlan, Event, Line, Refill


class _LineJson(TypedDict):
    plan_id: str
    plan_code: str
    version: int
    start_time: str
    end_time: str
    days: int
    period_days: int
    amount: MoneyJson


class _RefillJson(TypedDict):
    operation_id: str
    amount: MoneyJson
    priority: int
    effective_time: str
    expire_time: str | None
    kept_at_most: str | None


class _DetailsJson(TypedDict, total=False):
    plan_id: str
    lines: Sequence[_LineJson]
    refills: Sequence[_RefillJson]
    voided: Sequence[str]


@dataclass(frozen=True, slots=True)
class Details:
    """The parts of an event that have no column."""

    plan_id: str | None
    lines: tuple[Line, ...]
    refills: tuple[Refill, ...]
    voided_grant_operation_ids: tuple[str, ...]


_SEPARATORS: Final = (",", ":")


def details_json(event: Event) -> str:
    """Return what is stored of an event beside its columns."""
    details = _DetailsJson()
    if event.plan is not None:
        details["plan_id"] = event.plan.plan_id
    if event.lines:
        details["lines"] = list(map(_line_json, event.lines))
    if event.refills:
        details["refills"] = list(map(_refill_json, event.refills))
    if event.voided_grant_operation_ids:
        details["voided"] = list(event.voided_grant_operation_ids)
    return json.dumps(details, separators=_SEPARATORS)


def details_of_json(text: str) -> Details:
    """Return stored details; raises KeyError or ValueError for what `details_json` does not write."""
    stored = cast("_DetailsJson", json.loads(text))
    return Details(
        stored.get("plan_id"),
        tuple(map(_line, stored.get("lines", ()))),
        tuple(map(_refill, stored.get("refills", ()))),
        tuple(stored.get("voided", ())),
    )


def _line_json(line: Line) -> _LineJson:
    return _LineJson(
        plan_id=line.plan.plan_id,
        plan_code=line.plan.plan_code,
        version=line.plan.version,
        start_time=_time_json(line.start_time),
        end_time=_time_json(line.end_time),
        days=line.days,
        period_days=line.period_days,
        amount=money_json(line.amount),
    )


def _line(stored: _LineJson) -> Line:
    return Line(
        AgreedPlan(stored["plan_id"], stored["plan_code"], stored["version"]),
        _time(stored["start_time"]),
        _time(stored["end_time"]),
        stored["days"],
        stored["period_days"],
        money_of_json(stored["amount"]),
    )


def _refill_json(refill: Refill) -> _RefillJson:
    return _RefillJson(
        operation_id=refill.operation_id,
        amount=money_json(refill.amount),
        priority=refill.priority,
        effective_time=_time_json(refill.effective_time),
        expire_time=None if refill.expire_time is None else _time_json(refill.expire_time),
        kept_at_most=None if refill.kept_at_most is None else format_amount(refill.kept_at_most),
    )


def _refill(stored: _RefillJson) -> Refill:
    expire_time, kept_at_most = stored["expire_time"], stored["kept_at_most"]
    return Refill(
        stored["operation_id"],
        money_of_json(stored["amount"]),
        stored["priority"],
        _time(stored["effective_time"]),
        None if expire_time is None else _time(expire_time),
        None if kept_at_most is None else Decimal(kept_at_most),
    )


def _time_json(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def _time(stored: str) -> datetime:
    return datetime.fromisoformat(stored)
