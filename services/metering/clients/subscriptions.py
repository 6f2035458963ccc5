"""Asks billing which subscriptions organizations have.

For whom a subscription is never changes, so what is known is remembered for as long as there is room. That there is
none of an id is remembered for a moment only. After a failure billing is not asked about single ones for a second.
"""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.errors import Unavailable
from libs.common.pages import foreign_token
from libs.common.timestamps import parse_time
from tollhouse.billing.v1 import subscription_pb2 as pb
from tollhouse.billing.v1 import subscription_pb2_grpc as rpc

_ASK_WITHIN_S: Final = 1.0
_ASK_AGAIN_AFTER_S: Final = 1.0
_MISSING_FOR_S: Final = 2.0
_KNOWN_MAX: Final = 20_000
_QUESTIONS_MAX: Final = 64
_ENTITLING: Final = ("TRIALING", "ACTIVE", "PAST_DUE")
_ENDED: Final = ("CANCELLED", "EXPIRED")


class Subject(NamedTuple):
    """For whom a subscription is."""

    user_id: str
    """Empty for the organization's own."""
    model: str
    """Empty for a subscription to a plan."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription as billing has it."""

    subscription_id: str
    subject: Subject
    plan_code: str
    plan_version: int
    state: str
    """Such as `ACTIVE`."""
    state_reason: str
    period_start_time: datetime | None
    period_end_time: datetime | None
    cancel_at_period_end: bool
    expire_time: datetime | None

    @property
    def entitles(self) -> bool:
        """Whether its state entitles to anything."""
        return self.state in _ENTITLING

    @property
    def has_ended(self) -> bool:
        """Whether it is over for good."""
        return self.state in _ENDED


class SubscriptionsClient:
    """Says which subscriptions organizations have."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._subscriptions: rpc.SubscriptionServiceStub = rpc.SubscriptionServiceStub(channel)
        self._subjects: OrderedDict[tuple[str, str], Subject] = OrderedDict()
        self._missing_until_s: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._questions = asyncio.Semaphore(_QUESTIONS_MAX)
        self._ask_again_s = 0.0

    async def subject_of(self, organization_id: str, subscription_id: str) -> Subject | None:
        """Return for whom a subscription of an organization is; None where it has none of this id.

        Raises:
            Unavailable: billing cannot be asked, or could not be a moment ago.
        """
        key = organization_id, subscription_id
        known = self._subjects.get(key)
        if known is not None or self._missing_until_s.get(key, 0) > time.monotonic():
            return known
        async with self._questions:
            if time.monotonic() < self._ask_again_s:
                raise Unavailable(dependency="billing")
            found = await self.find(organization_id, subscription_id)
        if found is None:
            self._missing_until_s.pop(key, None)
            self._missing_until_s[key] = time.monotonic() + _MISSING_FOR_S
            if len(self._missing_until_s) > _KNOWN_MAX:
                self._missing_until_s.popitem(last=False)
            return None
        self._subjects[key] = found.subject
        if len(self._subjects) > _KNOWN_MAX:
            self._subjects.popitem(last=False)
        return found.subject

    async def find(self, organization_id: str, subscription_id: str) -> Subscription | None:
        """Return a subscription of an organization as it is now; None where it has none of this id.

        Raises:
            Unavailable: billing cannot be asked.
        """
        request = pb.GetSubscriptionRequest(organization_id=organization_id, subscription_id=subscription_id)
        try:
            answer = await self._subscriptions.GetSubscription(request, timeout=_ASK_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            self._ask_again_s = time.monotonic() + _ASK_AGAIN_AFTER_S
            raise Unavailable(dependency="billing") from error
        return _subscription(answer.subscription)

    async def page(
        self, organization_id: str, subject: Subject, size: int, page_token: str
    ) -> tuple[list[Subscription], str]:
        """Return a page of subscriptions, the latest first, ended ones included, and the token of the next one.

        Where the subject names a user or a model, only those of the user, or to the model.

        Raises:
            InvalidArgument: the token is none of this list.
            Unavailable: billing cannot be asked.
        """
        request = pb.ListSubscriptionsRequest(
            organization_id=organization_id,
            user_id=subject.user_id,
            model=subject.model,
            page_size=size,
            page_token=page_token,
        )
        try:
            answer = await self._subscriptions.ListSubscriptions(request, timeout=_ASK_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise foreign_token() from error
            raise Unavailable(dependency="billing") from error
        return [_subscription(one) for one in answer.subscriptions], answer.next_page_token


def _subscription(one: pb.Subscription) -> Subscription:
    return Subscription(
        subscription_id=one.subscription_id,
        subject=Subject(one.user_id, one.model),
        plan_code=one.plan_code,
        plan_version=one.plan_version,
        state=pb.SubscriptionState.Name(one.state).removeprefix("SUBSCRIPTION_STATE_"),
        state_reason=one.state_reason,
        period_start_time=_time(one.period_start_time) if one.HasField("period_start_time") else None,
        period_end_time=_time(one.period_end_time) if one.HasField("period_end_time") else None,
        cancel_at_period_end=one.cancel_at_period_end,
        expire_time=_time(one.expire_time) if one.HasField("expire_time") else None,
    )


def _time(moment: Timestamp) -> datetime:
    return parse_time("", moment, [])
