"""Amounts as they are given to commands."""

from tollhouse.common.v1.amount_pb2 import Amount

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def parse_amount(text: str) -> Amount:
    """Return the amount of a text such as `12.5USD` or `12.5 USD`. The service checks both of its parts."""
    value = text.rstrip(_LETTERS)
    return Amount(currency_code=text[len(value) :], value=value.rstrip())
