"""Metering's settings, beyond those that every service has."""

from pathlib import Path
from typing import Final

from pydantic import Field, FilePath, field_validator
from pydantic_settings import SettingsConfigDict

from libs.common.sealing import InvalidSealingKeys, SealingKeys
from libs.common.settings import ShardedSettings
from services.metering.external_auth.configuration import InvalidExternalAuth, read_external_auth
from services.metering.rate_limit.descriptors import InvalidDescriptors, read_descriptors

PREFIX: Final = "TOLLHOUSE_METERING_"


class MeteringSettings(ShardedSettings):
    """Settings under `TOLLHOUSE_METERING_…`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    billing_target: str = Field(min_length=1)
    """Where billing answers, such as `billing:50052`."""
    identity_target: str = Field(min_length=1)
    """Where identity answers, such as `identity:50051`."""
    signing_key_file: FilePath
    """The private key with which metering signs the tokens for its calls to billing and identity."""

    key_answer_ttl_s: float = Field(default=5, ge=0, le=5)
    """For how long an answer of identity about a key is cached, unless a change of the key drops it earlier."""
    key_stale_max_s: float = Field(default=0, ge=0, le=30)
    """For how much longer an answer may be used while identity cannot be reached. With zero, no key is accepted then.
    Not used for a key that a change has named, nor for a call with a `min_revision`."""
    key_answers_max: int = Field(default=100_000, ge=1, le=10_000_000)
    """How many such answers one process caches."""
    entitlements_required: bool = True
    """Whether a call fails while billing cannot be asked what its caller is entitled to. With false the last answer is
    taken, however old, and no limit where there was none."""
    queue_max: int = Field(default=20_000, ge=500, le=1_000_000)
    """How many usages or authorizations may wait for their transaction; further calls are refused as overloaded."""
    relay_every_s: float = Field(default=0.2, ge=0.01, le=60)
    """How often the relay looks for due charges in the outbox."""
    lapses_every_s: float = Field(default=5, ge=0.01, le=600)
    """How often metering looks for authorizations whose settlement does not come."""
    rate_limit_descriptors_file: FilePath | None = None
    """A JSON file that says what the descriptors of Envoy's rate limit service stand for; without it the service is not
    there."""
    external_auth_file: FilePath | None = None
    """A JSON file that says how Envoy's external authorization is decided; without it the service is not there."""
    conversation_keys_file: FilePath | None = None
    """A JSON file `{"<version>": "<hex>"}` with the keys that encrypt the contents of messages, each of 32 bytes. The
    highest version is used for new contents; the others still read older ones. Without it new contents are not
    encrypted."""
    conversation_retention_days: int = Field(default=0, ge=0, le=3650)
    """For how many days contents of messages and titles of conversations are kept where the organization's policy says
    nothing; 0 until they are deleted."""
    relay_after_s: float = Field(default=5, ge=0.1, le=300)
    """How long the process that recorded a usage has to charge it before the relay sends the charge."""

    drops_every_s: float = Field(default=5, ge=0.01, le=600)
    """How often metering looks for months of usage that are to be dropped, and for users that are to be forgotten."""
    drop_seal_s: float = Field(default=60, ge=0, le=3600)
    """How long a month is sealed before it is counted and dropped, so that whatever was let through before is there."""

    @field_validator("rate_limit_descriptors_file")
    @classmethod
    def _descriptors_make_sense(cls, path: Path | None) -> Path | None:
        if path is not None:
            try:
                read_descriptors(path.read_text(encoding="utf-8"))
            except (InvalidDescriptors, ValueError) as error:
                raise ValueError(str(error)) from None
        return path

    @field_validator("conversation_keys_file")
    @classmethod
    def _conversation_keys_are_usable(cls, path: Path | None) -> Path | None:
        if path is not None:
            try:
                SealingKeys.read(path)
            except InvalidSealingKeys as error:
                raise ValueError(str(error)) from None
        return path

    @field_validator("external_auth_file")
    @classmethod
    def _external_auth_makes_sense(cls, path: Path | None) -> Path | None:
        if path is not None:
            try:
                read_external_auth(path.read_text(encoding="utf-8"))
            except (InvalidExternalAuth, ValueError) as error:
                raise ValueError(str(error)) from None
        return path
