"""From where the price of a subscription is taken, and what its provider is to be told."""

from collections.abc import Iterable
from typing import Final, Protocol

from libs.common.database import RawConnection
from libs.common.errors import Refusal
from libs.common.text import storable
from services.billing import errors, next_steps
from services.billing.subscription.domain import Subscription, Way
from services.billing.subscription.steps import NO_MONEY

_REASON_CHARS_MAX: Final = 256


class SavedMethods(Protocol):
    """The saved methods of payment of organizations."""

    async def require(self, organization_id: str, provider: str) -> None:
        """Check that a provider can charge one of the organization.

        Raises:
            PaymentProviderUnknown, PaymentProviderCannot, NoSavedMethod: it cannot.
        """


def require_renewed_here(subscription: Subscription, change: str) -> None:
    """Raise a refusal where a provider renews the subscription, and would go on charging for what it is now."""
    if subscription.collection is Way.PROVIDER:
        raise errors.RenewedByProvider(provider=subscription.collection_provider or "", change=change)


def reason_of_refusal(refusal: Refusal) -> str:
    """Return why a price could not be taken, as it is stored."""
    if isinstance(refusal, errors.InsufficientBalance | errors.CurrencyMismatch):
        return NO_MONEY
    return storable(refusal.message, _REASON_CHARS_MAX)


async def tell_providers(connection: RawConnection, changed: Iterable[tuple[Subscription, Subscription]]) -> None:
    """Note which subscriptions, each before and after a change, will or will not be renewed any more."""
    for before, after in changed:
        if _will_renew(before) is not _will_renew(after):
            kind, key = next_steps.StepKind.SUBSCRIPTION, after.subscription_id
            await next_steps.add(connection, after.organization_id, kind, key, after.update_time)


def _will_renew(subscription: Subscription) -> bool:
    is_theirs = subscription.collection is Way.PROVIDER
    return is_theirs and subscription.is_live and not subscription.cancel_at_period_end
