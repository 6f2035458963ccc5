"""Rows as the dataset of FOCUS 1.2: a line for each unit of a usage.

What a usage costs is rounded once, for all its units. ListCost and ContractedCost are exact. BilledCost and
EffectiveCost are what the usage costs, shared out: the sum up to a unit is rounded, less what the units before it got.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from typing import Final, NamedTuple

from libs.common.amount import format_amount
from services.metering.model.catalogue import Catalogue
from services.metering.model.domain import all_quantities
from services.metering.model.rates import NANO_DIGITS, RateCard, rounded
from services.metering.model.units import (
    THOUSANDTHS,
    TOKEN_CLASS_UNITS,
    Kind,
    Unit,
    Units,
    input_context,
    quantity_text,
    thousandths_of,
)
from services.metering.usage.dimensions import TEST
from services.metering.usage.export.columns import PLACES
from services.metering.usage.export.domain import KeyTexts, read_numbers
from services.metering.usage.export.forms import BYTE_ORDER_MARK, CSV_TYPE, Form, Lines, csv_lines
from services.metering.usage.export.store import Row

FOCUS_COLUMNS: Final = (
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType", "BillingCurrency"),
    *("BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription"),
    *("ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit"),
    *("ContractedCost", "ContractedUnitPrice", "EffectiveCost", "InvoiceId", "InvoiceIssuerName"),
    *("ListCost", "ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit"),
    *("ProviderName", "PublisherName", "ServiceCategory", "ServiceName", "ServiceSubcategory"),
    *("SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId"),
    *("SubAccountId", "SubAccountName", "SubAccountType", "Tags"),
    *("x_ApiKeyId", "x_ChargedAmount", "x_CorrectionNumber", "x_CostNotRounded", "x_Endpoint", "x_Environment"),
    *("x_Movements", "x_OccurTime", "x_OperationId", "x_ServiceTier", "x_SubscriptionId", "x_UsageId", "x_UserId"),
)
_ISSUER: Final = "Tollhouse"
_TOKENS: Final = tuple(PLACES[unit] for unit in TOKEN_CLASS_UNITS.values())
_FORMULAS: Final = ("'", "=", "+", "-", "@", "\t", "\r", "\n")
_KNOWN_MAX: Final = 10_000
_REQUEST: Final = "Requests"


class _Share(NamedTuple):
    """What one unit of a usage is and costs; nothing is below zero."""

    unit_id: str
    meter: str
    counted_in: str
    quantity: str
    unit_price: str
    exact: str
    nanos: int


def focus_form(catalogue: Catalogue, issuer_name: str, *, byte_order_mark: bool, guarded: bool) -> Form:
    head = csv_lines([FOCUS_COLUMNS])
    issuer = issuer_name or _ISSUER
    lines_of = partial(_lines, catalogue, _harmless(issuer) if guarded else issuer, guarded)
    return Form(CSV_TYPE, BYTE_ORDER_MARK + head if byte_order_mark else head, lines_of, _key_of)


def _key_of(row: Row) -> KeyTexts:
    return str(row[PLACES["occur_time"]]), str(row[PLACES["usage_id"]])


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULAS) else text


def _lines(catalogue: Catalogue, issuer: str, guarded: bool, rows: Sequence[Row]) -> Lines:
    lines = [line for row in rows for line in lines_of(row, catalogue, issuer, guarded=guarded)]
    return Lines(csv_lines(lines), len(lines))


def lines_of(row: Row, catalogue: Catalogue, issuer: str, *, guarded: bool) -> Iterator[Sequence[object]]:
    """Yield the lines of a row, in the order of FOCUS_COLUMNS; none while it has no price."""
    values = dict(zip(PLACES, row, strict=False))  # A row may have its keys at the end.
    if values["cost"] is None:
        return
    sign = "" if values["request_count"] == 1 else "-"
    month = str(values["create_time"])[:7]
    period_start, period_end = _month(month)
    charge_start, charge_end = _hour(str(values["occur_time"])[:13])
    is_late_correction = values["correction_number"] is not None and str(values["occur_time"])[:7] < month
    is_free = values["environment"] == TEST
    details = _details(str(values["service_tier"]), values["rate_hours"])
    for number, share in enumerate(_shares(row, values, catalogue)):
        meter = _harmless(share.meter) if guarded else share.meter
        counted_in = _harmless(share.counted_in) if guarded else share.counted_in
        exact, quantity = _signed(sign, share.exact), _signed(sign, share.quantity)
        billed = "0" if is_free else _signed(sign, format_amount(Decimal(share.nanos).scaleb(-NANO_DIGITS)))
        own = (values["charged_amount"], values["movements"]) if number == 0 else (None, None)
        yield (
            *(billed, values["organization_id"], None, "Organization", values["currency_code"]),
            *(period_end, period_start, "Usage", "Correction" if is_late_correction else None),
            f"{values['model']}: {share.meter}",
            *("Usage-Based", charge_end, charge_start, quantity, counted_in),
            *(exact, share.unit_price, billed, None, issuer),
            *(exact, share.unit_price, "Standard", quantity, counted_in),
            *(issuer, values["provider"] or issuer, "AI and Machine Learning", values["model"], "Generative AI"),
            *(f"{values['model']}/{share.unit_id}", meter, details, _price_id(values, share)),
            *(values["project_id"], None, "Project" if values["project_id"] else None, values["labels"] or "{}"),
            *(values["api_key_id"], own[0], values["correction_number"], exact),
            *(values["endpoint"], values["environment"], own[1], values["occur_time"], values["operation_id"]),
            *(values["service_tier"], values["subscription_id"], values["usage_id"], values["user_id"]),
        )


def _signed(sign: str, text: str) -> str:
    return text if text == "0" else sign + text


@lru_cache(maxsize=_KNOWN_MAX)
def _details(service_tier: str, rate_hours: str | None) -> str:
    details = {"x_ServiceTier": service_tier}
    if rate_hours:
        details["x_RateHours"] = rate_hours
    return json.dumps(details, ensure_ascii=False, separators=(",", ":"))


def _price_id(values: dict[str, str | int | None], share: _Share) -> str:
    return f"{values['price_version_id'] or 'stated'}/{share.unit_id}"


def _shares(row: Row, values: dict[str, str | int | None], catalogue: Catalogue) -> list[_Share]:
    """Return the units of a usage with their costs. Where no price says what units cost, the call has it all."""
    nanos = int(abs(Decimal(str(values["cost"]))).scaleb(NANO_DIGITS))
    version = catalogue.version(str(values["price_version_id"])) if values["price_version_id"] else None
    shares: list[_Share] = []
    if version is not None:
        hours = values["rate_hours"]
        part = version.parts.get(str(hours), version) if hours else version
        tokens = tuple(abs(int(row[place] or 0)) for place in _TOKENS)
        listed = read_numbers(str(values["quantities"])) if values["quantities"] else {}
        others = {unit_id: thousandths_of(abs(value)) for unit_id, value in listed.items()}
        used = all_quantities(part.card, tokens, others)
        shares = _shares_by_card(part.card, used, str(values["service_tier"]), catalogue.units, nanos)
    if not shares:
        text = format_amount(Decimal(nanos).scaleb(-NANO_DIGITS))
        return [_Share("requests", _REQUEST, _REQUEST, "1", text, text, nanos)]
    return shares


def _shares_by_card(card: RateCard, used: dict[str, int], service_tier: str, units: Units, nanos: int) -> list[_Share]:
    plan = card.plan(service_tier, units)
    weights = plan.at(input_context(used, units)).weights
    shares: list[_Share] = []
    total = given = 0
    named = [(unit_id, quantity) for unit_id, quantity in used.items() if quantity]
    for number, (unit_id, quantity) in enumerate(named, 1):
        weight = weights.get(unit_id, 0)
        total += quantity * weight
        # The last has the rest, so that the shares are what is charged, whatever the price says today.
        share = nanos - given if number == len(named) else rounded(total, plan.divisor) - given
        given += share
        shares.append(
            _Share(
                unit_id,
                *_names(units[unit_id]),
                quantity_text(quantity),
                _exact(weight * THOUSANDTHS, plan.divisor),
                _exact(weight * quantity, plan.divisor),
                share,
            )
        )
    return shares


@lru_cache(maxsize=_KNOWN_MAX)
def _exact(total: int, divisor: int) -> str:
    """Return a total of weights as a plain decimal, exactly; the divisor is a power of ten."""
    return format_amount(Decimal(f"{total}e-{NANO_DIGITS + len(str(divisor)) - 1}"))


def _names(unit: Unit) -> tuple[str, str]:
    """Return what a unit is called, and what it is counted in."""
    return unit.name, "Tokens" if unit.kind is Kind.TOKEN else unit.name


@lru_cache(maxsize=_KNOWN_MAX)
def _month(month: str) -> tuple[str, str]:
    """Return the beginning and the end of a month such as `2026-11`."""
    start = datetime.fromisoformat(f"{month}-01")
    return _text(start), _text((start + timedelta(days=32)).replace(day=1))


@lru_cache(maxsize=_KNOWN_MAX)
def _hour(hour: str) -> tuple[str, str]:
    """Return the beginning and the end of an hour such as `2026-11-27T08`."""
    start = datetime.fromisoformat(f"{hour}:00")
    return _text(start), _text(start + timedelta(hours=1))


def _text(moment: datetime) -> str:
    return f"{moment.isoformat(timespec='seconds')}Z"
