"""What becomes another price when a card takes the place of another."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from libs.common.amount import format_amount
from services.metering.model.hours import ALL_DAY, Schedule
from services.metering.model.rates import Rate, RateCard


@dataclass(frozen=True, slots=True)
class RateChange:
    """A rate, a fall-back or hours that one card has otherwise than another."""

    unit_id: str
    """Empty for hours."""
    service_tier: str
    """Empty for a fall-back and for hours."""
    above: int
    hours: str
    """The hours that a rate is for, or those that change."""
    before: str
    """What held before, such as `2.5/1000000, cost 2`, `as input_tokens` for a fall-back, or the times of hours; empty
    for nothing."""
    after: str


def same_prices(one: RateCard, other: RateCard) -> bool:
    """Whether two cards say the same, whatever the order of their rates."""
    return one == other or (
        frozenset(one.rates) == frozenset(other.rates)
        and one.fallbacks == other.fallbacks
        and one.factor == other.factor
        and one.currency_code == other.currency_code
        and one.provider_currency_code == other.provider_currency_code
        and _times(one.schedule) == _times(other.schedule)
    )


def _times(schedule: Schedule | None) -> tuple[str, frozenset[tuple[str, int, int]]] | None:
    """Return when hours are, whatever the order in which they are written."""
    if schedule is None:
        return None
    return schedule.time_zone, frozenset((schedule.hours[one.hours].name, one.start, one.end) for one in schedule.week)


def rate_changes(before: RateCard | None, after: RateCard) -> list[RateChange]:
    """Return what differs, first what the earlier card has, in its order, then what only the later one has.

    Where there was no card, only the rates are new: fall-backs tell nothing that a reader would compare.
    """
    name_currencies = before is not None and (
        before.currency_code != after.currency_code
        or len({before.provider_currency_code, after.provider_currency_code} - {None}) > 1
    )
    old = {} if before is None else _stated(before, name_currencies=name_currencies)
    new = _stated(after if before is not None else replace(after, fallbacks={}), name_currencies=name_currencies)
    return [
        RateChange(*place, old.get(place, ""), new.get(place, ""))
        for place in dict.fromkeys((*old, *new))
        if old.get(place) != new.get(place)
    ]


def _stated(card: RateCard, *, name_currencies: bool) -> Mapping[tuple[str, str, int, str], str]:
    rates = {
        (rate.unit_id, rate.service_tier, rate.above, rate.hours): _text(card, rate, name_currencies)
        for rate in card.rates
    }
    fallbacks = {(unit_id, "", 0, ALL_DAY): f"as {target}" for unit_id, target in card.fallbacks.items()}
    schedule = card.schedule
    hours = {} if schedule is None else {("", "", 0, one.name): schedule.text_of(one) for one in schedule.hours}
    return rates | fallbacks | hours


def _text(card: RateCard, rate: Rate, name_currencies: bool) -> str:
    """Write what a customer pays and what the provider takes, each for as many."""
    text = format_amount(rate.price * card.factor) + ("" if rate.per == 1 else f"/{rate.per}")
    text += f" {card.currency_code}" if name_currencies else ""
    if rate.provider_cost is None:
        return text
    text += f", cost {format_amount(rate.provider_cost)}"
    return text + (f" {card.provider_currency_code}" if name_currencies else "")
