"""What is asked before the work, and what is answered."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from services.metering.clients.identity import KeyPrincipal

OUTPUT_TOKENS_DEFAULT: Final = 4096
"""What is reserved for when neither the caller nor the catalogue names a maximum."""
HOLD_TTL_DEFAULT_MS: Final = 600_000
_FINGERPRINT_BYTES: Final = 16


class Ask(NamedTuple):
    """A call that wants to begin, after its key is verified."""

    organization_id: str
    operation_id: str
    project_id: str | None
    user_id: str | None
    service_account_id: str | None
    api_key_id: str | None
    model: str
    endpoint: str | None
    input_tokens: int
    max_output_tokens: int
    hold_ttl_ms: int

    def fingerprint(self) -> bytes:
        text = "\x1f".join("" if value is None else str(value) for value in self)
        return hashlib.blake2b(text.encode(), digest_size=_FINGERPRINT_BYTES).digest()


class Pinned(NamedTuple):
    """An ask with the price it will be settled with and the estimate to be held."""

    ask: Ask
    fingerprint: bytes
    price_version_id: str
    currency_code: str
    amount: Decimal
    create_time: datetime


class Stored(NamedTuple):
    """An authorization as it is kept."""

    pinned: Pinned
    cancelled: bool
    settled: bool
    """Whether the usage of the operation is recorded."""

    @property
    def ended(self) -> bool:
        return self.cancelled or self.settled


@dataclass(frozen=True, slots=True)
class Denied:
    """The call may not begin."""

    reason: str
    message: str
    facts: Mapping[str, str] = field(default_factory=dict)
    principal: KeyPrincipal | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Allowed:
    """The call may begin; the estimate is held."""

    pinned: Pinned
    principal: KeyPrincipal
    hold_id: str
    expire_time: datetime | None
    replayed: bool


Decision = Allowed | Denied


def differing_field(before: Ask, now: Ask) -> str:
    """Name the first field in which two asks of one operation id differ."""
    for name in Ask._fields:
        if getattr(before, name) != getattr(now, name):
            return "hold_ttl" if name == "hold_ttl_ms" else name
    return "model"
