"""Asks billing what may be used, and caches the answers.

An answer is used until the moment that it names itself, and no longer than until billing's stream of changes names its
organization, which happens within a second of a change. It is not used while nothing has come over the stream for five
seconds: then billing is asked each time. When the stream goes on where it was, answers that no change has named are
good again.

Concurrent callers about one subject share one request. An answer to a request that was sent before a change, and came
after the news of it, goes to those who wait for it and is not kept.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple, NoReturn

import grpc
from opentelemetry import metrics

from libs.common.channel import follow_stream
from libs.common.clock import Clock
from libs.common.deadline import leave_deadline
from libs.common.errors import Unavailable
from libs.common.timestamps import parse_time
from tollhouse.billing.v1 import plan_pb2, subscription_pb2
from tollhouse.billing.v1 import subscription_pb2_grpc as rpc

METRIC: Final = "tollhouse.entitlement_requests"

_ASK_WITHIN_S: Final = 1.0
_SILENCE_MAX_S: Final = 5.0
_OVERDUE_FOR: Final = timedelta(seconds=1)
"""For how long an answer is used whose end had come already when it was given: billing is late with what is due."""
_ANSWERS_MAX: Final = 20_000

Subject = tuple[str, str, str]
"""An organization, a user in it and a model; the latter two are empty for none."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How much of something may be used in a window of time."""

    metric: str
    window: str
    """Such as `MINUTE` or `PERIOD`."""
    maximum: Decimal | None
    """None for any amount."""
    soft: bool
    currency_code: str
    """Empty unless the metric is `spend`."""


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What may be used of one thing."""

    value: bool | Decimal | str | Limit
    source: str
    """Which rule gave it, such as `OVERRIDE` or `USER_PLAN`."""
    subscription_id: str | None
    override_user_id: str = ""
    """For an override: the user it is for; empty for all of the organization."""
    override_model: str = ""
    """For an override: the model it is for; empty for all."""


class Subscribed(NamedTuple):
    """A live subscription that calls can fall under."""

    subscription_id: str
    user_id: str
    """Empty for the organization's own."""
    model: str
    """Empty for a subscription to a plan."""
    start_time: datetime


@dataclass(frozen=True, slots=True)
class Entitlements:
    """What a subject may use, by the codes of the entitlements."""

    values: Mapping[str, Entitlement]
    period: tuple[datetime, datetime] | None
    """The period of the nearest subscription that has one."""
    until_time: datetime | None
    """Until when all of it holds, unless something is changed; None for no end."""
    periods: Mapping[str, tuple[datetime, datetime]] = field(default_factory=dict)
    """The present period of each of the subscriptions that has one."""
    subscriptions: tuple[Subscribed, ...] = ()
    """The live ones, the nearest first."""


class EntitlementsClient:
    """Says what may be used, with a cache."""

    def __init__(self, channel: grpc.aio.Channel, clock: Clock, *, answers_max: int = _ANSWERS_MAX) -> None:
        self._subscriptions: rpc.SubscriptionServiceStub = rpc.SubscriptionServiceStub(channel)
        self._clock = clock
        self._answers_max = answers_max
        self._kept: OrderedDict[Subject, Entitlements] = OrderedDict()
        self._of_organization: dict[str, set[Subject]] = {}
        self._asking: dict[Subject, asyncio.Task[Entitlements]] = {}
        self._revision = ""
        self._heard_s = -math.inf
        self._counter = metrics.get_meter("tollhouse").create_counter(
            METRIC, description="Requests to billing for what may be used, by their outcome."
        )
        self.asked_count = 0
        """How many requests were sent to billing since the process began."""
        self.failed_count = 0
        """How many of them brought no answer."""

    @property
    def is_current(self) -> bool:
        """Whether the stream of changes has been heard of lately, so that cached answers may be used."""
        return time.monotonic() < self._heard_s + _SILENCE_MAX_S

    def __len__(self) -> int:
        """Return how many answers are kept."""
        return len(self._kept)

    def known(self, organization_id: str, user_id: str = "", model: str = "") -> Entitlements | None:
        """Return what is certain without asking billing; None where it must be asked. Ids are in lower case."""
        kept = self._kept.get((organization_id, user_id, model))
        if kept is None or not self.is_current:
            return None
        return None if kept.until_time is not None and self._clock.now() >= kept.until_time else kept

    def last_known(self, organization_id: str, user_id: str = "", model: str = "") -> Entitlements | None:
        """Return the last answer, which may be out of date; None where there was none. Ids are in lower case."""
        return self._kept.get((organization_id, user_id, model))

    async def entitlements_of(self, organization_id: str, user_id: str = "", model: str = "") -> Entitlements:
        """Return what an organization, a user in it, or one of them with a model may use. Ids are in lower case.

        Raises:
            Unavailable: billing does not answer, and no answer is kept that is certain still.
        """
        known = self.known(organization_id, user_id, model)
        if known is not None:
            return known
        # Shielded: if this caller is cancelled, the others still get the answer.
        return await asyncio.shield(self._ask_once((organization_id, user_id, model)))

    async def watch(self) -> NoReturn:
        """Follow billing's stream of changes until cancelled. While no stream is open, billing is asked each time."""

        def open_stream() -> AsyncIterable[subscription_pb2.WatchEntitlementsResponse]:
            request = subscription_pb2.WatchEntitlementsRequest(revision=self._revision)
            return self._subscriptions.WatchEntitlements(request)

        await follow_stream(open_stream, self._take_in, "entitlement changes")

    def _take_in(self, message: subscription_pb2.WatchEntitlementsResponse) -> None:
        if message.resync or not self._revision:
            self._kept.clear()
            self._of_organization.clear()
            self._asking.clear()
        self._revision = message.revision
        self._heard_s = time.monotonic()
        changed = set(message.organization_ids)
        for organization_id in changed:
            for subject in self._of_organization.pop(organization_id, ()):
                del self._kept[subject]
        # Callers after a change must not share a request that was sent before it.
        for subject in [one for one in self._asking if one[0] in changed]:
            del self._asking[subject]

    def _ask_once(self, subject: Subject) -> "asyncio.Task[Entitlements]":
        """Return the request about the subject that is in flight; start one if there is none."""
        asking = self._asking.get(subject)
        if asking is None:
            asking = self._asking[subject] = asyncio.create_task(self._ask(subject), name="entitlements")
            asking.add_done_callback(lambda done: self._note_answered(subject, done))
        return asking

    def _note_answered(self, subject: Subject, asking: "asyncio.Task[Entitlements]") -> None:
        """Keep the answer, unless its organization has changed since it was asked for."""
        if self._asking.get(subject) is not asking:
            return
        del self._asking[subject]
        if asking.cancelled() or asking.exception() is not None:
            return
        self._kept.pop(subject, None)
        self._kept[subject] = asking.result()
        self._of_organization.setdefault(subject[0], set()).add(subject)
        if len(self._kept) > self._answers_max:
            self._forget(next(iter(self._kept)))

    def _forget(self, subject: Subject) -> None:
        del self._kept[subject]
        subjects = self._of_organization[subject[0]]
        subjects.discard(subject)
        if not subjects:
            del self._of_organization[subject[0]]

    async def _ask(self, subject: Subject) -> Entitlements:
        leave_deadline()
        organization_id, user_id, model = subject
        request = subscription_pb2.GetEntitlementsRequest(organization_id=organization_id, user_id=user_id, model=model)
        asked_time = self._clock.now()
        self.asked_count += 1
        try:
            answer = await self._subscriptions.GetEntitlements(request, timeout=_ASK_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            self.failed_count += 1
            self._counter.add(1, {"outcome": error.code().name})
            raise Unavailable(dependency="billing") from error
        self._counter.add(1, {"outcome": "OK"})
        return _entitlements(answer, asked_time)


def _entitlements(answer: subscription_pb2.GetEntitlementsResponse, asked_time: datetime) -> Entitlements:
    until_time = None
    if answer.HasField("until_time"):
        until_time = parse_time("until_time", answer.until_time, [])
        if until_time <= asked_time:
            until_time = asked_time + _OVERDUE_FOR
    period = None
    if answer.HasField("period_end_time"):
        start = parse_time("period_start_time", answer.period_start_time, [])
        period = start, parse_time("period_end_time", answer.period_end_time, [])
    values = {
        one.entitlement.entitlement_code: Entitlement(
            _value(one.entitlement),
            subscription_pb2.EntitlementSource.Name(one.source).removeprefix("ENTITLEMENT_SOURCE_"),
            one.subscription_id or None,
            one.override_user_id,
            one.override_model,
        )
        for one in answer.entitlements
    }
    subscriptions = tuple(
        Subscribed(one.subscription_id, one.user_id, one.model, parse_time("start_time", one.start_time, []))
        for one in answer.subscriptions
    )
    return Entitlements(values, period, until_time, dict(_periods(answer)), subscriptions)


def _periods(
    answer: subscription_pb2.GetEntitlementsResponse,
) -> Iterator[tuple[str, tuple[datetime, datetime]]]:
    for one in answer.subscriptions:
        if one.HasField("period_start_time") and one.HasField("period_end_time"):
            start = parse_time("period_start_time", one.period_start_time, [])
            yield one.subscription_id, (start, parse_time("period_end_time", one.period_end_time, []))


def _value(one: plan_pb2.Entitlement) -> bool | Decimal | str | Limit:
    kind = one.WhichOneof("value")
    if kind == "enabled":
        return one.enabled
    if kind == "number":
        return Decimal(one.number)
    if kind == "text":
        return one.text
    limit = one.limit
    return Limit(
        metric=limit.metric,
        window=plan_pb2.LimitWindow.Name(limit.window).removeprefix("LIMIT_WINDOW_"),
        maximum=None if limit.unlimited else Decimal(limit.value),
        soft=limit.soft,
        currency_code=limit.currency_code,
    )
