"""Events, the endpoints that want them, and the rules of their deliveries."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final
from urllib.parse import SplitResult, urlsplit

from libs.common.addresses import Address, Network, parse_address
from libs.common.sharding import PLATFORM

ENDPOINTS_MAX: Final = 50
"""How many endpoints an organization has in one service, and the platform."""
URL_MAX: Final = 2048
MAIL_SCHEME: Final = "mailto"
USAGE_RECORDED: Final = "tollhouse.usage.recorded"
_ONLY_WHERE_NAMED: Final = frozenset({USAGE_RECORDED})
"""The types of which there are so many events that an endpoint for all types is not sent them."""


class Status(StrEnum):
    """How far a delivery is."""

    WAITING = "WAITING"
    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    FAILED = "FAILED"


class Reason(StrEnum):
    """Why an attempt failed, or what was odd about one that did not. The member's own text is what callers see."""

    NONE = ""
    NAME_NOT_RESOLVED = "NAME_NOT_RESOLVED"
    ADDRESS_NOT_ALLOWED = "ADDRESS_NOT_ALLOWED"
    NOT_ENCRYPTED = "NOT_ENCRYPTED"
    NOT_CONNECTED = "NOT_CONNECTED"
    CERTIFICATE_REFUSED = "CERTIFICATE_REFUSED"
    TIMED_OUT = "TIMED_OUT"
    CONNECTION_LOST = "CONNECTION_LOST"
    BAD_ANSWER = "BAD_ANSWER"
    ANSWER_TOO_LARGE = "ANSWER_TOO_LARGE"
    REDIRECTED = "REDIRECTED"
    HTTP_STATUS = "HTTP_STATUS"
    ENDPOINT_OFF = "ENDPOINT_OFF"
    ENDPOINT_DELETED = "ENDPOINT_DELETED"
    SECRET_NOT_READABLE = "SECRET_NOT_READABLE"  # noqa: S105 -- a reason, and no secret.
    MAIL_NOT_SET_UP = "MAIL_NOT_SET_UP"
    MAIL_NOT_TAKEN = "MAIL_NOT_TAKEN"
    MAIL_REFUSED = "MAIL_REFUSED"
    INTERNAL = "INTERNAL"


class Off(StrEnum):
    """Why the service has switched an endpoint off."""

    FAILED_FOR_LONG = "FAILED_FOR_LONG"
    GONE = "GONE"


@dataclass(frozen=True, slots=True)
class Event:
    """An event as it is stored."""

    organization_id: str
    event_id: str
    subject: str
    sequence: int
    type: str
    event_time: datetime
    data: Mapping[str, object]
    sealed_data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as it is stored; the secrets are encrypted."""

    organization_id: str
    endpoint_id: str
    url: str
    types: tuple[str, ...]
    description: str
    enabled: bool
    disabled_reason: str
    secret: bytes | None
    previous_secret: bytes | None
    previous_secret_expire_time: datetime | None
    failing_since: datetime | None
    version: int
    create_time: datetime
    update_time: datetime
    delete_time: datetime | None

    @property
    def etag(self) -> str:
        return str(self.version)

    @property
    def is_of_platform(self) -> bool:
        return self.organization_id == PLATFORM

    @property
    def is_mail(self) -> bool:
        return self.url.startswith(f"{MAIL_SCHEME}:")

    def wants(self, event_type: str) -> bool:
        """Tell whether events of a type are sent to it."""
        if not self.types:
            return event_type not in _ONLY_WHERE_NAMED
        return any(_matches(pattern, event_type) for pattern in self.types)

    def __repr__(self) -> str:
        return f"Endpoint(endpoint_id={self.endpoint_id})"


def _matches(pattern: str, event_type: str) -> bool:
    return event_type.startswith(pattern[:-1]) if pattern.endswith(".*") else event_type == pattern


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of an event at an endpoint."""

    organization_id: str
    event_id: str
    endpoint_id: str
    subject: str
    sequence: int
    status: Status
    attempt_count: int
    failure_count: int
    next_attempt_time: datetime
    last_attempt_time: datetime | None
    last_reason: str
    last_detail: str
    http_status: int
    replay_count: int
    start_time: datetime
    finish_time: datetime | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attempt."""

    delivered: bool
    reason: Reason = Reason.NONE
    detail: str = ""
    http_status: int = 0
    retry_after_s: int = 0
    """How long the endpoint asks to wait; 0 if it does not."""
    final: bool = False
    """Whether no other attempt is made."""


class Failed(Exception):
    """An attempt failed; carries its outcome."""

    def __init__(self, reason: Reason, detail: str, http_status: int = 0, retry_after_s: int = 0) -> None:
        super().__init__(detail)
        self.outcome = Outcome(False, reason, detail, http_status, retry_after_s)


_DELAYS_S: Final = (5, 30, 120, 600, 1_800, 3_600, 7_200)
_DELAY_MAX_S: Final = 4 * 3_600
_RETRY_AFTER_MAX_S: Final = 24 * 3_600
_JITTER: Final = 0.2


def delay_after(failures: int, retry_after_s: int, chance: float) -> timedelta:
    """Return how long to wait after a number of failures: 5 s, 30 s, 2 min, 10 min, 30 min, 1 h, 2 h, then 4 h each.

    `chance`, from 0 to 1, makes it up to a fifth shorter or longer. An endpoint may ask for more, up to a day.
    """
    delay_s = _DELAYS_S[failures - 1] if failures <= len(_DELAYS_S) else _DELAY_MAX_S
    jittered_s = delay_s * (1 - _JITTER + 2 * _JITTER * chance)
    return timedelta(seconds=max(jittered_s, min(retry_after_s, _RETRY_AFTER_MAX_S)))


_VISIBLE: Final = re.compile(r"[!-~]+")
_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_MAIL: Final = re.compile(r"mailto:[A-Za-z0-9.!#$&'*+/=^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_HOST_MAX: Final = 253


def url_problem(url: str, allowed: Collection[Network], *, mails: bool) -> str | None:
    """Return what is wrong with the address of an endpoint; None where it may be one.

    `allowed` is the networks that endpoints may be in beside the public ones, and `mails` whether the service sends
    mail.
    """
    if url.startswith(f"{MAIL_SCHEME}:"):
        if not mails:
            return "must begin with https:// while the service does not send mail"
        return None if _MAIL.fullmatch(url) and len(url) <= _HOST_MAX else "must be mailto: and one address of mail"
    if not _VISIBLE.fullmatch(url) or len(url) > URL_MAX or "\\" in url:
        return f"must be at most {URL_MAX} visible ASCII characters"
    try:
        parts, port = urlsplit(url), urlsplit(url).port
    except ValueError:
        return "must be an address such as https://example.com/events"
    if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
        return "must be an address such as https://example.com/events"
    if "@" in parts.netloc or "#" in url:
        return "must have no user, password or fragment"
    if parts.scheme == "http" and not allowed:
        return "must begin with https://"
    return _host_problem(parts, allowed)


def _host_problem(parts: SplitResult, allowed: Collection[Network]) -> str | None:
    host = parts.hostname or ""
    address = parse_address(host)
    if address is None:
        is_name = len(host) <= _HOST_MAX and _HOST.fullmatch(host) and ":" not in host
        return None if is_name else "must have a host name or an IP address"
    return None if may_reach(address, allowed) else "must not be an address of a private network"


_SPECIAL_IPV4: Final = tuple(
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        *("224.0.0.0/4", "240.0.0.0/4"),
        # What a cloud's machines reach there is the cloud's own, though the address is a public one.
        "168.63.129.16/32",
    )
)
"""What RFC 6890 and its successors list as not reachable from everywhere, written out: libraries differ in it."""
_PUBLIC_IPV6: Final = IPv6Network("2000::/3")
_SPECIAL_IPV6: Final = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
"""Of these the ones for tunnels lead to an IPv4 address that is written in them."""


def may_reach(address: Address, allowed: Collection[Network]) -> bool:
    """Tell whether events may be sent to an address: a public one, or one in the networks that are allowed beside.

    Public is what anybody on the internet can reach: no loopback, private, link-local (where clouds have their
    metadata), shared, multicast or reserved address, and no IPv6 address that stands for an IPv4 address elsewhere.
    """
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(address in network for network in allowed):
        return True
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_IPV4)
    return address in _PUBLIC_IPV6 and not any(address in network for network in _SPECIAL_IPV6)
