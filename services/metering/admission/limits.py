"""What limits say to calls that ask to begin: pure rules."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from libs.common.amount import format_amount
from services.metering.admission.domain import Ask, Request, Status
from services.metering.model.units import THOUSANDTHS, TOKEN_CLASS_UNITS, Units
from services.metering.quota.counter_store import Key
from services.metering.quota.counters import Standings
from services.metering.quota.decisions import (
    Place,
    Refused,
    Standing,
    Take,
    in_shadow,
    left,
    refusal,
    reserve,
    retry_after_s,
    standing_at,
    subscription_of,
    take_of,
)
from services.metering.quota.domain import Amounts, Applied, Call, Reservations, Window, amounts_of
from services.metering.quota.layouts import Layout
from services.metering.quota.quick_store import QuickChange
from services.metering.tables import TOKEN_CLASSES

_ZERO: Final = Decimal(0)


class Said(NamedTuple):
    """What limits say to a call."""

    refused: Refused | None
    """The first limit that refuses it; None where it may begin."""
    in_shadow: Sequence[str] = ()
    """The metrics of SHADOW limits that would have refused it."""


UNSAID: Final = Said(None)
"""Nothing is said: no limit is in force, or the call was decided before."""


def call_of(request: Request, ask: Ask, provider: str, subscription_id: str | None) -> Call:
    """Return what limits look at in a call that is to fall under a subscription; None for the nearest."""
    return Call(
        ask.project_id or "",
        ask.user_id or "",
        ask.service_account_id or "",
        ask.api_key_id or "",
        subscription_id or "",
        ask.model,
        provider,
        request.labels,
    )


def amounts_of_ask(request: Request, ask: Ask, held: Decimal, currency_code: str, units: Units) -> Amounts:
    """Return the most that a call may use, for which this amount is held.

    Without an estimate, the input tokens stand for all units of their side, and the output tokens for those of theirs.
    """
    if request.estimate is None:
        quantities = {
            "input_tokens": ask.input_tokens * THOUSANDTHS,
            "output_tokens": ask.max_output_tokens * THOUSANDTHS,
        }
    else:
        quantities = {
            TOKEN_CLASS_UNITS[name]: count * THOUSANDTHS
            for name, count in zip(TOKEN_CLASSES, request.estimate, strict=True)
            if count
        }
    quantities.update(request.quantities)
    return amounts_of(quantities, units, held, currency_code, request.items)._replace(concurrent_calls=1)


def takes_of(applied: Sequence[Applied], places: Sequence[Place], amounts: Amounts) -> list[Take]:
    """Return what a call takes of the limits in force for it."""
    return [take_of(one, place, amounts) for one, place in zip(applied, places, strict=True)]


def reservations_of(takes: Sequence[Take]) -> Reservations:
    """Return what a call reserves. A limit of single calls has no counter."""
    reserving = [take for take in takes if take.limit.shape.window is not Window.CALL]
    shapes = [take.limit.shape for take in reserving]
    return Reservations(
        tuple(take.place.counter.counter_id for take in reserving),
        tuple((shape.metric, shape.currency_code) for shape in shapes),
        tuple(take.amount for take in reserving),
    )


def decide(asking: Sequence[tuple[str, Sequence[Take]]], standings: Standings, now: datetime) -> list[Said]:
    """Decide calls one after the other: the organization of each, and what it would take.

    What a call reserves is added to `standings`. A call that a limit refuses reserves nothing anywhere.
    """
    said: list[Said] = []
    for organization_id, takes in asking:
        standing = standings.get(organization_id, {})
        refused = refusal(takes, standing, now)
        shadowed: Sequence[str] = ()
        if refused is None:
            shadowed = in_shadow(takes, standing)
            reserve(takes, standing)
        else:
            refused = refused._replace(standing=_copy(refused.standing))
        said.append(Said(refused, shadowed))
    return said


def statuses(places: Sequence[Place], standing: Mapping[str, Standing]) -> list[Status]:
    """Return where limits stand. It is what `standing` says, also when that changes."""
    return [(place, standing_at(place, standing)) for place in places]


def without(reservations: Reservations, before: Sequence[Status]) -> list[Status]:
    """Return where the limits stand when what a call has reserved is given back."""
    amounts = dict(zip(reservations.counter_ids, reservations.amounts, strict=True))
    after: list[Status] = []
    for place, standing in before:
        given_back = _copy(standing)
        given_back.reserved -= amounts.get(place.counter.counter_id, _ZERO)
        after.append((place, given_back))
    return after


def changes_of(calls: Sequence[tuple[str, Layout, Sequence[Decimal]]]) -> list[tuple[Key, QuickChange]]:
    """Return by how much counters change if all calls begin, in the order of their keys.

    Of each call the organization is given, where it counts, and what it takes of each metric.
    """
    totals: dict[int, tuple[str, Layout, list[Decimal]]] = {}
    for organization_id, layout, wanted in calls:
        known = totals.get(id(layout))
        if known is None:
            totals[id(layout)] = organization_id, layout, list(wanted)
        else:
            for metric, value in enumerate(wanted):
                known[2][metric] += value
    changes: defaultdict[str, dict[str, QuickChange]] = defaultdict(dict)
    for organization_id, layout, total in totals.values():
        of_organization = changes[organization_id]
        for counter_id, metric, maximum in zip(layout.counter_ids, layout.metric_places, layout.maxima, strict=True):
            value = total[metric]
            before = of_organization.get(counter_id)
            if before is not None:
                value += before.reserved
                if before.maximum is not None and (maximum is None or before.maximum < maximum):
                    maximum = before.maximum  # Of two versions of a limit the stricter one.
            of_organization[counter_id] = QuickChange(_ZERO, value, maximum if value else None)
    # The keys in two steps: texts are compared quicker than pairs of them.
    return [
        ((organization_id, counter_id), of_organization[counter_id])
        for organization_id, of_organization in sorted(changes.items())
        for counter_id in sorted(of_organization)
    ]


def message_of(refused: Refused) -> str:
    """Say in one line which limit refused a call, what it leaves, and when the call would pass."""
    limit, standing = refused.take.limit, refused.standing
    shape = limit.shape
    counted = f"{shape.metric} in {shape.currency_code}" if shape.currency_code else shape.metric
    rest = format_amount(left(limit, standing) or Decimal(0))
    needed = format_amount(refused.take.amount)
    seconds = retry_after_s(refused)
    when = "waiting does not help" if seconds is None else f"it would pass in {seconds} s"
    given_by = subscription_of(refused)
    owner = f" of the subscription {given_by}" if given_by else ""
    return f"The limit {limit.name}{owner} on {counted} leaves {rest}, and the call may use {needed}; {when}."


def _copy(standing: Standing) -> Standing:
    return Standing(standing.used, standing.reserved, standing.earlier, standing.earlier_sum, standing.carried)
