"""Reads what was used, as requests state it: token counts, quantities of units beside them, and their total."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from libs.common.errors import FieldViolation
from services.metering.model.domain import Tokens
from services.metering.model.units import (
    THOUSANDTHS,
    TOKEN_CLASS_UNITS,
    Kind,
    Quantities,
    Units,
    read_quantities,
)
from services.metering.tables import TOKEN_CLASSES
from tollhouse.metering.v1 import model_pb2, unit_pb2


@dataclass(frozen=True, slots=True)
class Used:
    """What a request says was used."""

    tokens: Tokens
    quantities: Quantities
    """Beside the tokens."""
    total_tokens: int


def read_tokens(tokens: model_pb2.TokenCounts) -> Tokens:
    return (
        tokens.input,
        tokens.output,
        tokens.cache_read,
        tokens.cache_write,
        tokens.reasoning,
        tokens.audio_input,
        tokens.audio_output,
        tokens.image,
    )


def read_used(
    counts: model_pb2.TokenCounts,
    stated: Sequence[unit_pb2.Quantity],
    total_tokens: int | None,
    units: Units,
    violations: list[FieldViolation],
) -> Used:
    """Read what was used. What is wrong is added to `violations`.

    Wrong is, beside what is wrong with a quantity by itself, a unit that `tokens` counts already, and a `total_tokens`
    that is not the sum of all units of tokens.
    """
    before = len(violations)
    tokens = read_tokens(counts)
    listed = ((quantity.unit, Decimal(quantity.value)) for quantity in stated)
    quantities = read_quantities("quantities", listed, units, violations)
    counted = {TOKEN_CLASS_UNITS[name]: name for name, count in zip(TOKEN_CLASSES, tokens, strict=True) if count}
    for index, quantity in enumerate(stated):
        if quantity.unit in counted:
            rule = f"{quantity.unit} is counted in tokens.{counted[quantity.unit]} already"
            violations.append(FieldViolation(f"quantities[{index}].unit", rule))
    beside = sum(value for unit_id, value in quantities.items() if units[unit_id].kind is Kind.TOKEN)
    total = sum(tokens) + beside // THOUSANDTHS
    # With a part that is wrong the sum is, too, and would only be named because of it.
    if total_tokens is not None and total_tokens != total and len(violations) == before:
        rule = f"is {total_tokens:,}, but the units of tokens add up to {total:,}"
        violations.append(FieldViolation("total_tokens", rule))
    return Used(tokens, quantities, total)
