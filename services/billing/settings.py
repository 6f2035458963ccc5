"""Billing's settings, beyond those that every service has."""

from typing import Final, Self

from pydantic import Field, FilePath, model_validator
from pydantic_settings import SettingsConfigDict

from libs.common.settings import ShardedSettings

PREFIX: Final = "TOLLHOUSE_BILLING_"


class BillingSettings(ShardedSettings):
    """Settings under `TOLLHOUSE_BILLING_…`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    identity_target: str | None = None
    """The address of identity, such as `identity:50051`. Without it billing takes calls of operators and services only,
    and none of users or API keys."""
    signing_key_file: FilePath | None = None
    """The private key with which billing signs its own tokens towards identity; needed with `identity_target`."""

    batch_max: int = Field(default=500, ge=1, le=5_000)
    """How many commands one transaction of the ledger takes at most."""
    queue_max: int = Field(default=20_000, ge=200, le=1_000_000)
    """How many commands wait at most; a further one is refused at once as overloaded."""
    lanes: int = Field(default=1, ge=1, le=8)
    """How many batches may be under way at a time. More than one helps where the database is far away."""
    sweep_every_s: float = Field(default=5, ge=0.05, le=3_600)
    """How often expired holds are ended on accounts that nobody uses."""

    watchers_max: int = Field(default=256, ge=1, le=10_000)
    """How many streams of WatchEntitlements one process serves."""

    @model_validator(mode="after")
    def _identity_is_called_with_a_key(self) -> Self:
        if self.identity_target and not self.signing_key_file:
            raise ValueError(f"{PREFIX}SIGNING_KEY_FILE: is not set, though {PREFIX}IDENTITY_TARGET is")
        return self
