"""Authorizations whose settlement did not come: when one has lapsed, and what is recorded of its call.

Where parts of the call were settled, the last of them is recorded, whatever the policy says. The time in which its
settlement must come begins with the end of the hold, or with the last part where that came later.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.metering.admission.domain import Stored
from services.metering.admission.policy import DEFAULT, Entry, LapseCharge
from services.metering.model.units import Units
from services.metering.tables import TOKEN_CLASSES
from services.metering.usage.dimensions import LIVE
from services.metering.usage.domain import LAPSED, Work

_NO_OTHER_TOKENS: Final = (0,) * (len(TOKEN_CLASSES) - 1)


@dataclass(frozen=True, slots=True)
class Over:
    """Nothing is left to be decided: the call is settled, cancelled or declined, or was never charged."""


@dataclass(frozen=True, slots=True)
class Later:
    """Its settlement may still come."""

    check_time: datetime


@dataclass(frozen=True, slots=True)
class Lapsed:
    """Its settlement does not come any more."""

    charge: LapseCharge


Verdict = Over | Later | Lapsed


def verdict(
    stored: Stored | None,
    entry: Entry | None,
    end_time: datetime,
    now: datetime,
    last_part_time: datetime | None = None,
) -> Verdict:
    """Return what is to be done about an authorization whose hold ends at a moment.

    What lapsed before its organization began to charge for lapses is not charged, unless parts of it were settled.
    """
    if stored is None or stored.settled:
        return Over()
    never_charged = stored.cancelled or stored.declined or stored.pinned.ask.environment != LIVE
    if never_charged and last_part_time is None:
        return Over()
    policy = DEFAULT if entry is None else entry.policy
    lapse_time = max(end_time, last_part_time or end_time) + policy.lapse_after
    if now < lapse_time:
        return Later(lapse_time)
    if entry is not None and lapse_time <= entry.lapse_charge_time:
        return Lapsed(LapseCharge.RELEASE)
    return Lapsed(policy.lapse_charge)


def work_of_lapsed(stored: Stored, charge: LapseCharge, units: Units) -> Work | None:
    """Return the usage to record of a call that lapsed, or None where nothing is recorded.

    The authorized input was read by the provider: all of its tokens count as those of `input`, beside quantities of
    units that are part of the input context. It was read when the call was authorized.
    """
    if charge is not LapseCharge.INPUT:
        return None
    ask, allowance = stored.pinned.ask, stored.allowance
    quantities = {
        unit_id: value
        for unit_id, value in allowance.quantities.items()
        if value and units[unit_id].counts_toward_context
    }
    if not allowance.input_tokens and not quantities:
        return None
    return Work(
        organization_id=ask.organization_id,
        operation_id=ask.operation_id,
        fingerprint=LAPSED,
        occur_time=stored.pinned.create_time,
        project_id=ask.project_id,
        user_id=ask.user_id,
        api_key_id=ask.api_key_id,
        subscription_id=None,
        model=ask.model,
        tokens=(allowance.input_tokens, *_NO_OTHER_TOKENS),
        latency_ms=None,
        status_code=None,
        error_message=None,
        endpoint=ask.endpoint,
        conversation_id=None,
        labels=None,
        partial=True,
        settles=True,
        adjusted=(),
        quantities=quantities,
        service_tier=ask.service_tier,
        service_account_id=ask.service_account_id,
    )


def work_of_last_part(work: Work) -> Work:
    """Return the usage to record of a call of which no settlement came after this part."""
    return work._replace(fingerprint=LAPSED, partial=True)
