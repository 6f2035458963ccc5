"""Reading and writing exact amounts at the border."""

import re
from decimal import Decimal
from typing import Final

from libs.common.errors import FieldViolation
from tollhouse.common.v1 import amount_pb2

FRACTION_DIGITS: Final = 9
SMALLEST_POSITIVE: Final = Decimal("0.000000001")
AMOUNT_MAX: Final = Decimal(10) ** 15

_VALUE = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,9})?")
_CURRENCY_CODE = re.compile(r"[A-Z][A-Z0-9]{1,11}")


def parse_amount(
    field: str,
    amount: amount_pb2.Amount,
    violations: list[FieldViolation],
    *,
    minimum: Decimal = SMALLEST_POSITIVE,
) -> Decimal:
    """Read an amount of at least `minimum`; what is wrong with it is added to `violations` and reads as zero."""
    if _CURRENCY_CODE.fullmatch(amount.currency_code) is None:
        violations.append(FieldViolation(f"{field}.currency_code", "must be a code such as USD or CREDIT"))
    if _VALUE.fullmatch(amount.value) is None:
        violations.append(
            FieldViolation(f"{field}.value", "must be a plain decimal of at most 15 integer and 9 fraction digits")
        )
        return Decimal(0)
    value = Decimal(amount.value)
    if value < minimum:
        rule = "must be greater than zero" if minimum == SMALLEST_POSITIVE else f"must be at least {minimum:f}"
        violations.append(FieldViolation(f"{field}.value", rule))
        return Decimal(0)
    return value


def format_amount(value: Decimal) -> str:
    """Return the value in plain notation without trailing zeros: `12.5`, `0`, `-3`."""
    if not value:
        return "0"
    # Quicker than the format `f`, in 0.17 µs instead of 0.47. Only very small and very large values have an exponent.
    text = str(value)
    if "E" in text:
        text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def render_amount(currency_code: str, value: Decimal) -> amount_pb2.Amount:
    return amount_pb2.Amount(currency_code=currency_code, value=format_amount(value))
