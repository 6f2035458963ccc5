"""What billing can be told from outside, beyond what every service can."""

from typing import Final

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from libs.common.settings import ServiceSettings

PREFIX: Final = "TOLLHOUSE_BILLING_"


class BillingSettings(ServiceSettings):
    """Settings under `TOLLHOUSE_BILLING_…`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    batch_max: int = Field(default=500, ge=1, le=5_000)
    """How many commands one transaction of the ledger takes at most."""
    queue_max: int = Field(default=20_000, ge=200, le=1_000_000)
    """How many commands wait at most; a further one is told at once that the service is overloaded."""
    lanes: int = Field(default=1, ge=1, le=8)
    """How many batches may be under way at a time. More than one helps where the database is far away."""
    sweep_every_s: float = Field(default=5, ge=0.05, le=3_600)
    """How often expired holds are looked for on accounts that nobody touches."""
