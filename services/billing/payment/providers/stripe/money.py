"""How many decimals Stripe's whole numbers have, as docs.stripe.com/currencies says for charges."""

from decimal import Decimal
from typing import Final

from services.billing.payment.providers import money

_ZERO_DECIMALS: Final = frozenset(
    ("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF")
)
"""The page's list of zero-decimal currencies. It names UGX, too; but see below."""
_THREE_DECIMALS: Final = frozenset(("BHD", "JOD", "KWD", "OMR", "TND"))
"""Amounts of these must end in 0: 5.124 KWD cannot be charged, but 5.12 can."""
_WHOLE_ALONE: Final = frozenset(("ISK", "UGX"))
"""The page's special cases: they have two decimals in the API, which are always 00."""


def decimals_of(currency_code: str) -> int:
    """Return how many decimals the whole numbers of a currency have."""
    if currency_code in _ZERO_DECIMALS:
        return 0
    return 3 if currency_code in _THREE_DECIMALS else 2


def smallest(currency_code: str) -> Decimal:
    """Return the smallest amount that can be charged more or less in a currency."""
    if currency_code in _ZERO_DECIMALS | _WHOLE_ALONE:
        return Decimal(1)
    return Decimal("0.01")


def read_amount(units: int, currency_code: str) -> Decimal:
    """Return the amount that a whole number means."""
    return money.from_minor(units, decimals_of(currency_code))


def write_amount(amount: Decimal, currency_code: str) -> int:
    """Return the whole number for an amount.

    Raises:
        ProviderMisconfigured: Stripe cannot charge this amount.
    """
    decimals = decimals_of(currency_code)
    return money.to_minor(amount, decimals, smallest=int(smallest(currency_code).scaleb(decimals)))
