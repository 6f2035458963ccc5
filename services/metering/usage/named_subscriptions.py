"""Refuses work that names a subscription which it cannot fall under.

Work that was authorized under a subscription falls under that one. Other work may name any of its organization's, also
one that has ended, if it is not for another user or model. While billing cannot be asked, work that is done is recorded
as it was named, and counted in a metric.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog
from opentelemetry import metrics

from libs.common.errors import Refusal, Unavailable
from services.metering.clients.subscriptions import SubscriptionsClient
from services.metering.errors import SubscriptionMismatch
from services.metering.quota.named_subscriptions import refusal_of_subscription
from services.metering.usage.domain import LAPSED, Authorization, Work

_log = structlog.get_logger("usage")

METRIC: Final = "tollhouse.unchecked_subscriptions"

_Question = tuple[str, str, str | None, str]
"""An organization, a subscription of which it is not known whether it is theirs, the user, and the model."""


class NamedSubscriptions:
    """Checks the subscriptions that work names."""

    def __init__(self, subscriptions: SubscriptionsClient) -> None:
        self._subscriptions = subscriptions
        self._counter = metrics.get_meter("tollhouse").create_counter(
            METRIC, description="Usage that was recorded under the subscription it names, because billing was away."
        )

    async def know(self, works: Sequence[Work]) -> None:
        """Ask billing about the subscriptions that works name, so that no batch with works of others waits for it."""
        named = {(one.organization_id, one.subscription_id) for one in works if one.subscription_id is not None}
        if named:
            asked = (self._subscriptions.subject_of(*key) for key in named)
            for answer in await asyncio.gather(*asked, return_exceptions=True):
                if isinstance(answer, BaseException) and not isinstance(answer, Unavailable):
                    raise answer

    async def refusals(self, works: Sequence[tuple[Work, Authorization | None]]) -> dict[int, Refusal]:
        """Return why works cannot fall under the subscriptions they name, by their places; most name none."""
        refused: dict[int, Refusal] = {}
        asked: dict[int, _Question] = {}
        for place, (work, authorization) in enumerate(works):
            # A part of a call was checked when it was stored.
            if work.subscription_id is None or work.fingerprint == LAPSED:
                continue
            user_id = work.user_id
            if authorization is not None:
                if authorization.subscription_id == work.subscription_id:
                    continue
                if authorization.subscription_id is not None:
                    refused[place] = SubscriptionMismatch(
                        subscription_id=work.subscription_id, contradicts="operation_id"
                    )
                    continue
                user_id = user_id or authorization.user_id
            asked[place] = work.organization_id, work.subscription_id, user_id, work.model
        if asked:
            questions = list(set(asked.values()))
            answers = dict(zip(questions, await asyncio.gather(*map(self._ask, questions)), strict=True))
            for place, question in asked.items():
                answer = answers[question]
                if isinstance(answer, Unavailable):
                    self._counter.add(1)
                elif answer is not None:
                    refused[place] = answer
        return refused

    async def _ask(self, question: _Question) -> Refusal | None:
        try:
            return await refusal_of_subscription(self._subscriptions, *question)
        except Unavailable as unavailable:
            _log.warning("usage recorded under a subscription that billing was not asked about")
            return unavailable
