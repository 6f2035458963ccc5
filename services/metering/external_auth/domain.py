"""What is asked about a request of a proxy, and the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from services.metering.clients.identity import KeyPrincipal

AUTHORIZATION: Final = "authorization"
PREFIX: Final = "x-tollhouse-"
"""How the headers begin that tell whose request it is."""

Headers = Sequence[tuple[str, str]]


class Status(IntEnum):
    """The HTTP status of a request that may not pass."""

    UNAUTHORIZED = 401
    PAYMENT_REQUIRED = 402
    FORBIDDEN = 403
    TOO_MANY_REQUESTS = 429


@dataclass(frozen=True, slots=True)
class Route:
    """What a route demands."""

    scopes: tuple[str, ...] = ()
    model: str = ""
    project_id: str = ""
    organization_id: str = ""
    currency_code: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of a proxy."""

    keys: Sequence[str]
    """The different API keys in its headers."""
    client_address: str
    """Empty where it is not known."""
    route: Route
    removed: Sequence[str]
    """The headers of the client that are not passed on, whosever request it is."""


@dataclass(frozen=True, slots=True)
class Passes:
    """The request may pass."""

    principal: KeyPrincipal
    subscription_id: str
    """The subscription that the request falls under; empty for none."""
    hints: Headers


@dataclass(frozen=True, slots=True)
class Denied:
    """The request may not pass."""

    status: Status
    reason: str
    message: str
    facts: Mapping[str, str] = field(default_factory=dict)
    hints: Headers = ()
