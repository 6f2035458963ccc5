"""What becomes another price when a card takes the place of another."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from libs.common.amount import format_amount
from services.metering.model.rates import Rate, RateCard


@dataclass(frozen=True, slots=True)
class RateChange:
    """A rate or a fall-back that one card has otherwise than another."""

    unit_id: str
    service_tier: str
    """Empty for a fall-back."""
    above: int
    before: str
    """What held before, such as `2.5/1000000, cost 2`, or `as input_tokens` for a fall-back; empty for nothing."""
    after: str


def same_prices(one: RateCard, other: RateCard) -> bool:
    """Whether two cards say the same, whatever the order of their rates."""
    return one == other or (
        frozenset(one.rates) == frozenset(other.rates)
        and one.fallbacks == other.fallbacks
        and one.factor == other.factor
        and one.currency_code == other.currency_code
        and one.provider_currency_code == other.provider_currency_code
    )


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


def _stated(card: RateCard, *, name_currencies: bool) -> Mapping[tuple[str, str, int], str]:
    rates = {(rate.unit_id, rate.service_tier, rate.above): _text(card, rate, name_currencies) for rate in card.rates}
    return rates | {(unit_id, "", 0): f"as {target}" for unit_id, target in card.fallbacks.items()}


def _text(card: RateCard, rate: Rate, name_currencies: bool) -> str:
    """Write what a customer pays and what the provider takes, each for as many."""
    text = format_amount(rate.price * card.factor) + ("" if rate.per == 1 else f"/{rate.per}")
    text += f" {card.currency_code}" if name_currencies else ""
    if rate.provider_cost is None:
        return text
    text += f", cost {format_amount(rate.provider_cost)}"
    return text + (f" {card.provider_currency_code}" if name_currencies else "")
