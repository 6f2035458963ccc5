"""What is sent: CloudEvents 1.0 in JSON, with the signatures of standardwebhooks."""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from libs.common.events.domain import Endpoint, Event
from libs.common.sealing import NotReadable, SealingKeys, place_of_data, place_of_secret
from libs.common.timestamps import rfc3339

_PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = 32
CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"


def source_of(context: str) -> str:
    """Return where the events of a service say they come from."""
    return f"tollhouse/{context}"


def body_of(event: Event, context: str, extra: Mapping[str, object]) -> bytes:
    """Return an event as JSON: the same bytes for every attempt. `extra` is added to its data."""
    attributes = {
        "specversion": "1.0",
        "id": event.event_id,
        "source": source_of(context),
        "type": event.type,
        "subject": event.subject,
        "time": rfc3339(event.event_time),
        "datacontenttype": "application/json",
        "organizationid": event.organization_id,
        # As the CloudEvents extension `sequence` has it.
        "sequence": str(event.sequence),
        "data": {**event.data, **extra},
    }
    return json.dumps(attributes, separators=(",", ":")).encode()


def unsealed_data(event: Event, endpoint: Endpoint, keys: SealingKeys | None) -> Mapping[str, object]:
    """Return what the event has for endpoints of the platform alone; nothing for other endpoints.

    Raises:
        NotReadable: it cannot be decrypted.
    """
    if event.sealed_data is None or not endpoint.is_of_platform:
        return {}
    if keys is None:
        raise NotReadable
    opened = json.loads(keys.open(event.sealed_data, place_of_data(event.organization_id, event.subject)))
    return {str(name): value for name, value in opened.items()}


def new_secret() -> bytes:
    """Return a new secret of an endpoint."""
    return secrets.token_bytes(_SECRET_BYTES)


def secret_text(secret: bytes) -> str:
    """Return a secret as standardwebhooks writes it."""
    return _PREFIX + base64.b64encode(secret).decode()


def secrets_of(endpoint: Endpoint, keys: SealingKeys | None, now: datetime) -> list[bytes]:
    """Return the secrets that sign what an endpoint is sent: its own, and the one before while that counts.

    Raises:
        NotReadable: they cannot be decrypted.
    """
    if keys is None or endpoint.secret is None:
        raise NotReadable
    place = place_of_secret(endpoint.endpoint_id)
    found = [keys.open(endpoint.secret, place)]
    expire_time = endpoint.previous_secret_expire_time
    if endpoint.previous_secret is not None and expire_time is not None and now < expire_time:
        found.append(keys.open(endpoint.previous_secret, place))
    return found


def signed_headers(event_id: str, body: bytes, signers: Sequence[bytes], now: datetime) -> dict[str, str]:
    """Return the headers of standardwebhooks: the id, the time of the attempt, and a signature for each secret."""
    timestamp = str(int(now.timestamp()))
    signed = f"{event_id}.{timestamp}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode() for secret in signers)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
