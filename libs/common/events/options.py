"""What a service is told from outside about events."""

import ssl
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from libs.common.addresses import Network
from libs.common.sealing import SealingKeys
from libs.common.settings import ServiceSettings


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of events, as the code takes them."""

    keys: SealingKeys | None = None
    allowed: Collection[Network] = ()
    tls: ssl.SSLContext | None = None
    look_every_s: float = 1.0
    attempt_timeout_s: float = 15.0
    retried_for: timedelta = timedelta(hours=72)
    ordered_for: timedelta = timedelta(hours=1)
    off_after: timedelta = timedelta(hours=120)
    kept_for: timedelta = timedelta(days=30)
    under_way_max: int = 64
    per_endpoint_max: int = 8


def options_of(settings: ServiceSettings) -> Options:
    """Return the settings of events."""
    path = settings.event_keys_file
    ca_file = settings.event_ca_file
    return Options(
        keys=SealingKeys.read(path) if path else None,
        allowed=settings.event_allowed_networks,
        tls=_trusting(str(ca_file)) if ca_file else None,
        look_every_s=settings.event_look_every_s,
        attempt_timeout_s=settings.event_attempt_timeout_s,
        retried_for=timedelta(hours=settings.event_retry_hours),
        ordered_for=timedelta(seconds=settings.event_order_wait_s),
        off_after=timedelta(hours=settings.event_endpoint_off_after_hours),
        kept_for=timedelta(days=settings.event_retention_days),
        under_way_max=settings.event_attempts_max,
        per_endpoint_max=settings.event_attempts_per_endpoint_max,
    )


def _trusting(ca_file: str) -> ssl.SSLContext:
    """Return a context that trusts an authority beside those of the system."""
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=ca_file)
    return context
