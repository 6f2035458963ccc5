"""What metering can be told from outside, beyond what every service can."""

from typing import Final

from pydantic import Field, FilePath
from pydantic_settings import SettingsConfigDict

from libs.common.settings import ServiceSettings

PREFIX: Final = "TOLLHOUSE_METERING_"


class MeteringSettings(ServiceSettings):
    """Settings under `TOLLHOUSE_METERING_…`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    billing_target: str = Field(min_length=1)
    """Where billing answers, such as `billing:50052`."""
    identity_target: str = Field(min_length=1)
    """Where identity answers, such as `identity:50051`."""
    signing_key_file: FilePath
    """The private key with which metering signs its own tokens towards its peers."""

    key_answer_ttl_s: float = Field(default=5, ge=0, le=5)
    """How long an identity answer about a key is believed when no push says otherwise."""
    key_stale_max_s: float = Field(default=0, ge=0, le=30)
    """How far beyond that an answer may be used while identity cannot be reached. Zero lets nobody in then. Never used
    for a key that a change has named, nor where a `min_revision` is asked for."""
    key_answers_max: int = Field(default=100_000, ge=1, le=10_000_000)
    """How many such answers one process remembers."""
    queue_max: int = Field(default=20_000, ge=500, le=1_000_000)
    """How many usages may wait for their transaction; a further call is told that the service is overloaded."""
    relay_every_s: float = Field(default=0.2, ge=0.01, le=60)
    """How often the outbox is looked through for charges that are due."""
    relay_after_s: float = Field(default=5, ge=0.1, le=300)
    """How long the process that recorded a usage has to charge it before the relay takes the charge over."""
