"""Amounts as providers write them: whole numbers of a currency's minor unit."""

from decimal import Decimal

from services.billing.payment.provider import ProviderMisconfigured
from services.billing.payment.taxes import in_proportion


def from_minor(units: int, decimals: int) -> Decimal:
    """Return the amount of so many minor units, of which 10 to the power of `decimals` make one."""
    return Decimal(units).scaleb(-decimals)


def to_minor(amount: Decimal, decimals: int, *, smallest: int = 1) -> int:
    """Return how many minor units an amount is.

    Raises:
        ProviderMisconfigured: the provider cannot take this amount exactly: it is no multiple of `smallest` minor
            units. What is sold needs another price.
    """
    units = amount.scaleb(decimals)
    if units != units.to_integral_value() or int(units) % smallest:
        raise ProviderMisconfigured("The amount has more decimals than the provider takes in its currency.")
    return int(units)


def net_of(gross_units: int, amount_units: int, total_units: int, *, smallest: int = 1) -> int:
    """Return the part of a sum without the taxes that the provider added, in the proportion of the whole payment.

    Of a total of `total_units` with taxes, `amount_units` are without. The whole total is the whole amount; parts are
    rounded half to even to multiples of `smallest`, and no part is more than the whole.
    """
    return _in_proportion(gross_units, total_units, amount_units, smallest)


def gross_of(net_units: int, amount_units: int, total_units: int, *, smallest: int = 1) -> int:
    """Return the sum with taxes of which `net_units` are the part without; see `net_of`."""
    return _in_proportion(net_units, amount_units, total_units, smallest)


def gross_of_refund(
    net_units: int, before_units: int, refunded_units: int, amount_units: int, total_units: int, *, smallest: int = 1
) -> int:
    """Return the sum with taxes of a refund of which `net_units` are the part without; see `net_of`.

    `before_units`, without taxes, were refunded before it. Refunds of all parts are a refund of the whole, however they
    are rounded. `refunded_units`, with taxes, is what the provider has refunded: the rest of that is the last part.
    """
    after = before_units + net_units
    if after >= amount_units and net_of(refunded_units, amount_units, total_units, smallest=smallest) == before_units:
        return total_units - refunded_units
    sums = (gross_of(net, amount_units, total_units, smallest=smallest) for net in (after, before_units))
    return next(sums) - next(sums)


def _in_proportion(part: int, of: int, whole: int, smallest: int) -> int:
    return int(in_proportion(Decimal(part), Decimal(of), Decimal(whole), Decimal(smallest)))
