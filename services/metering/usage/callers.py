"""Whose usage it is, as far as that decides which limits are in force for it, and the subscription it falls under."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from services.metering.quota.calls import InForce, under
from services.metering.quota.domain import Applied, Call
from services.metering.usage.domain import Recorded


class Caller(NamedTuple):
    """What decides which limits are in force for usage."""

    organization_id: str
    project_id: str | None
    user_id: str | None
    service_account_id: str | None
    api_key_id: str | None
    subscription_id: str | None
    model: str
    provider: str
    labels: str | None
    """As JSON with sorted keys."""

    @property
    def call(self) -> Call:
        labels = json.loads(self.labels) if self.labels else {}
        return Call._make((*(value or "" for value in self[1:8]), labels))


def caller_of(recorded: Recorded) -> Caller:
    """Return whose usage it is."""
    work = recorded.work
    return Caller(
        work.organization_id,
        work.project_id,
        work.user_id,
        work.service_account_id,
        work.api_key_id,
        work.subscription_id,
        work.model,
        recorded.dimensions.provider,
        work.labels,
    )


def under_subscription(caller: Caller, found: InForce, occur_time: datetime) -> tuple[str | None, Sequence[Applied]]:
    """Return the subscription that usage of a caller falls under, and the limits in force for it.

    Usage that names none falls under the nearest that had begun then.
    """
    if caller.subscription_id is not None or not found.subscriptions:
        return caller.subscription_id, found.applied
    if found.subscriptions[0].start_time <= occur_time:
        return found.subscription_id, found.applied
    begun = (one.subscription_id for one in found.subscriptions if one.start_time <= occur_time)
    subscription_id = next(begun, None)
    return subscription_id, under(found.applied, subscription_id or "")


def with_subscription(recorded: Recorded, subscription_id: str | None) -> Recorded:
    """Return usage as it is under a subscription."""
    return recorded._replace(
        work=recorded.work._replace(subscription_id=subscription_id),
        dimensions=recorded.dimensions._replace(subscription_id=subscription_id or ""),
    )
