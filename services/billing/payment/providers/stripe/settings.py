"""The settings of Stripe, among those of billing."""

from typing import Annotated

from pydantic import BaseModel, Field, SecretStr


class StripeSettings(BaseModel):
    """Settings under `TOLLHOUSE_BILLING_STRIPE_…`."""

    stripe_secret_key: SecretStr | None = None
    """Stripe's secret or restricted key, `sk_…` or `rk_…`. Without it nothing is asked of Stripe."""
    stripe_webhook_secrets: list[Annotated[SecretStr, Field(min_length=6)]] = Field(default=[], max_length=2)
    """The signing secrets `whsec_…` of Stripe's webhook endpoint, as a JSON list: one, or two while it is replaced.
    Without one, Stripe's webhooks are refused. Each has 6 characters or more."""
    stripe_url: str = "https://api.stripe.com"
    """Where Stripe's API is."""
