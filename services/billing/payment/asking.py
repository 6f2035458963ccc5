"""Which payment provider is meant, and what its errors and its charges of saved methods are to our callers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import structlog

from libs.common.errors import Unavailable
from services.billing import payment_errors as errors
from services.billing.payment.domain import Payment
from services.billing.payment.provider import (
    MANUAL,
    Applied,
    FactStatus,
    PaymentFact,
    Provider,
    ProviderCannot,
    ProviderDeclined,
    ProviderDown,
    ProviderMisconfigured,
    Result,
)

_log = structlog.get_logger("saved methods")

CHARGE_SAVED_METHOD: Final = "charge a saved method"


def find_provider(providers: Mapping[str, Provider], name: str, what: str) -> tuple[str, Provider]:
    """Return a provider and its name; with an empty name the only one that is set up. `what` is what it is to do.

    Raises:
        PaymentProviderCannot, PaymentProviderUnknown: it cannot be asked.
    """
    if name == MANUAL:
        raise errors.PaymentProviderCannot(provider=MANUAL, what=what)
    if not name and len(providers) == 1:
        name = next(iter(providers))
    provider = providers.get(name)
    if provider is None:
        raise errors.PaymentProviderUnknown(provider=name or "that is meant")
    return name, provider


def require_saved_methods(name: str, provider: Provider) -> None:
    """Check that a provider charges saved methods.

    Raises:
        PaymentProviderCannot: it does not.
    """
    if not provider.charges_saved_methods:
        raise errors.PaymentProviderCannot(provider=name, what=CHARGE_SAVED_METHOD)


def log_if_not_applied(payment: Payment, fact: PaymentFact, applied: Applied) -> bool:
    """Log that a saved method was charged for a payment and that could not be applied; return whether it is so."""
    if fact.status is not FactStatus.COMPLETED or applied.result not in (Result.REFUSED, Result.PARKED):
        return False
    _log.error(
        "charged and not applied",
        organization_id=payment.organization_id,
        payment_id=payment.payment_id,
        provider=payment.provider,
        reason=applied.reason,
    )
    return True


@contextmanager
def as_refusals(name: str, what: str) -> Iterator[None]:
    """Turn the errors of a provider that is asked within into refusals. `what` is what it is to do.

    Raises:
        PaymentProviderCannot, PaymentProviderDeclined, PaymentProviderMisconfigured, Unavailable: see each.
    """
    try:
        yield
    except ProviderDown as error:
        raise Unavailable(dependency=f"payment provider {name}") from error
    except ProviderMisconfigured as error:
        raise errors.PaymentProviderMisconfigured(provider=name) from error
    except ProviderCannot as error:
        raise errors.PaymentProviderCannot(provider=name, what=what) from error
    except ProviderDeclined as error:
        raise errors.PaymentProviderDeclined(provider=name, provider_message=str(error)) from error
