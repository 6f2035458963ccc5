"""Amounts in requests and responses: what is accepted, what is refused, and how they are written."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.amount import AMOUNT_MAX, format_amount, parse_amount, render_amount
from libs.common.errors import FieldViolation
from tollhouse.common.v1 import amount_pb2


def parse(value: str, currency_code: str = "USD", minimum: Decimal | None = None) -> tuple[Decimal, list[str]]:
    violations: list[FieldViolation] = []
    amount = amount_pb2.Amount(currency_code=currency_code, value=value)
    if minimum is None:
        return parse_amount("amount", amount, violations), [violation.field for violation in violations]
    return parse_amount("amount", amount, violations, minimum=minimum), [violation.field for violation in violations]


@pytest.mark.parametrize("value", ["1", "0.000000001", "12.50", "999999999999999.999999999", "007"])
def test_plain_decimals_are_read_exactly(value: str) -> None:
    assert parse(value) == (Decimal(value), [])


@pytest.mark.parametrize(
    "value",
    [
        *("", "0", "0.0", "-1", "-0.1", "1e5", "NaN", "Infinity", "+1", " 1", "1 ", "1,5", ".5", "1."),
        *("0.0000000001", "1" * 16, "\u0967", "1_000", "0x1f", "1\n"),
    ],
)
def test_anything_else_is_refused_naming_the_value(value: str) -> None:
    assert parse(value) == (Decimal(0), ["amount.value"])


@pytest.mark.parametrize("currency_code", ["", "usd", "U", "US D", "1USD", "ABCDEFGHIJKLM", "USD\n"])
def test_malformed_currency_is_refused_naming_the_currency(currency_code: str) -> None:
    assert parse("1", currency_code)[1] == ["amount.currency_code"]


def test_zero_is_accepted_where_the_request_allows_it() -> None:
    assert parse("0.00", minimum=Decimal(0)) == (Decimal(0), [])
    assert parse("-0.000000001", minimum=Decimal(0))[1] == ["amount.value"]


@given(st.decimals(min_value=-AMOUNT_MAX + 1, max_value=AMOUNT_MAX - 1, places=9))
def test_written_amounts_read_back_the_same(value: Decimal) -> None:
    text = format_amount(value)

    assert Decimal(text) == value
    assert "E" not in text
    assert not ("." in text and text.endswith("0"))
    assert text != "-0"


def test_rendered_amount_names_its_currency() -> None:
    assert render_amount("CREDIT", Decimal("12.500000000")) == amount_pb2.Amount(currency_code="CREDIT", value="12.5")
