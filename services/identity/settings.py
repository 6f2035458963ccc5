"""What identity can be told from outside, beyond what every service can."""

from pathlib import Path
from typing import Final

from pydantic import Field, FilePath, field_validator
from pydantic_settings import SettingsConfigDict

from libs.common.settings import ServiceSettings
from services.identity import passwords
from services.identity.api_key.secret import InvalidPeppers, Peppers

PREFIX: Final = "TOLLHOUSE_IDENTITY_"


class IdentitySettings(ServiceSettings):
    """Settings under `TOLLHOUSE_IDENTITY_…`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    peppers: FilePath
    """A JSON file `{"<version>": "<hex>"}` with the keys of the digests under which secrets are stored, each of at
    least 32 bytes. The highest version digests new secrets; the others still recognise old ones."""
    cache_entries_max: int = Field(default=100_000, ge=1, le=10_000_000)
    """How many verified keys one process remembers."""
    last_used_flush_s: float = Field(default=5, ge=0.05, le=300)
    """How often the times of last use are written down."""
    watchers_max: int = Field(default=256, ge=1, le=10_000)
    """How many change streams one process serves."""
    password_length_min: int = Field(default=passwords.LENGTH_MIN, ge=passwords.LENGTH_MIN_FLOOR, le=64)
    """How many characters a new password has at least."""
    password_hash_memory_kib: int = Field(default=passwords.MEMORY_KIB, ge=19 * 1024, le=1024 * 1024)
    """The memory one argon2id hash fills. What was hashed with other parameters is hashed anew at the next sign-in."""
    password_hash_passes: int = Field(default=passwords.PASSES, ge=1, le=20)
    """How often a hash goes over its memory; with less than 46 MiB of it, take at least 2."""
    password_hash_lanes: int = Field(default=passwords.LANES, ge=1, le=16)
    password_hash_threads: int | None = Field(default=None, ge=1, le=64)
    """How many passwords are hashed at a time; one per processor when this is not set."""
    password_hashes_waiting_max: int = Field(default=passwords.WAITING_MAX, ge=1, le=10_000)
    """How many more may wait; who comes then is told that the service is overloaded."""

    @field_validator("peppers")
    @classmethod
    def _peppers_are_usable(cls, path: Path) -> Path:
        try:
            Peppers.read(path)
        except InvalidPeppers as error:
            raise ValueError(str(error)) from None
        return path
