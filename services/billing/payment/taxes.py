"""Sums with and without the taxes that a provider added to a price. A pure rule."""

from decimal import ROUND_HALF_EVEN, Decimal


def in_proportion(part: Decimal, of: Decimal, whole: Decimal, unit: Decimal) -> Decimal:
    """Return as large a part of `whole` as `part` is of `of`: rounded half to even to `unit`, and never more than all.

    All is all. Sums of parts are converted, not each part, so that parts together are never more than the whole.
    """
    if part >= of:
        return whole
    return min((part * whole / of / unit).quantize(Decimal(1), rounding=ROUND_HALF_EVEN) * unit, whole)
