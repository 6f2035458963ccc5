"""The providers that this installation uses: the one place that names them all."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import SecretStr

from libs.common.clock import Clock
from services.billing.payment.provider import Provider
from services.billing.payment.providers.lemon_squeezy.settings import LemonSqueezySettings
from services.billing.payment.providers.stripe.settings import StripeSettings


class ProvidersSettings(StripeSettings, LemonSqueezySettings):
    """The settings of all providers."""


@dataclass(frozen=True, slots=True)
class Configured:
    """A provider, and what the installation has set for it."""

    provider: Provider
    webhook_secrets: tuple[str, ...]
    """What its webhooks are signed with; none where they are refused."""
    store: str
    """The store that objects must be of, as facts name it."""
    can_be_asked: bool
    """Whether there is a key for its API."""
    close: Callable[[], Awaitable[None]]


Providers: TypeAlias = Mapping[str, Configured]
"""The providers in use, by the names that payments call them."""


def configured(settings: ProvidersSettings, clock: Clock) -> Providers:
    """Return the providers for which a key or a secret is set."""
    found: list[Configured] = []
    if settings.stripe_secret_key is not None or settings.stripe_webhook_secrets:
        found.append(_stripe(settings, clock))
    if settings.lemon_squeezy_api_key is not None or settings.lemon_squeezy_webhook_secrets:
        found.append(_lemon_squeezy(settings, clock))
    return {one.provider.name: one for one in found}


def _stripe(settings: StripeSettings, clock: Clock) -> Configured:
    # The HTTP client is a tenth of billing's start: it is imported where a provider is in use.
    from services.billing.payment.providers.stripe.provider import Stripe

    stripe = Stripe(_plain(settings.stripe_secret_key), settings.stripe_url, clock)
    secrets = tuple(map(_plain, settings.stripe_webhook_secrets))
    return Configured(stripe, secrets, "", settings.stripe_secret_key is not None, stripe.close)


def _lemon_squeezy(settings: LemonSqueezySettings, clock: Clock) -> Configured:
    from services.billing.payment.providers.lemon_squeezy.provider import LemonSqueezy

    store = settings.lemon_squeezy_store_id or ""
    lemon_squeezy = LemonSqueezy(
        _plain(settings.lemon_squeezy_api_key),
        store,
        settings.lemon_squeezy_top_up_variant_id,
        settings.lemon_squeezy_url,
        clock,
    )
    secrets = tuple(map(_plain, settings.lemon_squeezy_webhook_secrets))
    return Configured(lemon_squeezy, secrets, store, settings.lemon_squeezy_api_key is not None, lemon_squeezy.close)


def _plain(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()
