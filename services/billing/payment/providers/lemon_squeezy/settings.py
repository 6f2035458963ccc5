"""The settings of Lemon Squeezy, among those of billing."""

from typing import Annotated, Self

from pydantic import BaseModel, Field, SecretStr, model_validator


class LemonSqueezySettings(BaseModel):
    """Settings under `TOLLHOUSE_BILLING_LEMON_SQUEEZY_…`."""

    lemon_squeezy_api_key: SecretStr | None = None
    """Lemon Squeezy's API key. Without it nothing is asked of Lemon Squeezy."""
    lemon_squeezy_store_id: str | None = Field(default=None, pattern="^[0-9]{1,20}$")
    """The number of the store at Lemon Squeezy; what is of another one is refused. Needed with the key or a secret."""
    lemon_squeezy_webhook_secrets: list[Annotated[SecretStr, Field(min_length=6)]] = Field(default=[], max_length=2)
    """The signing secrets of Lemon Squeezy's webhook, as a JSON list: one, or two while it is replaced. Without one,
    Lemon Squeezy's webhooks are refused. Each has 6 characters or more."""
    lemon_squeezy_top_up_variant_id: str | None = Field(default=None, pattern="^[0-9]{1,20}$")
    """The variant at Lemon Squeezy that top-ups of any amount are sold as."""
    lemon_squeezy_url: str = "https://api.lemonsqueezy.com"
    """Where Lemon Squeezy's API is."""

    @model_validator(mode="after")
    def _store_is_known(self) -> Self:
        used = self.lemon_squeezy_api_key or self.lemon_squeezy_webhook_secrets
        if used and self.lemon_squeezy_store_id is None:
            raise ValueError("TOLLHOUSE_BILLING_LEMON_SQUEEZY_STORE_ID: is not set, though the key or a secret is")
        return self
