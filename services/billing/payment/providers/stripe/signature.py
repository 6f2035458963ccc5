"""Stripe's signature of a webhook, as docs.stripe.com/webhooks#verify-manually describes it.

The header is `Stripe-Signature: t=1492774577,v1=5257a869…,v0=6ffbb59b…`. A signature is the HMAC-SHA256 of the time, a
full stop and the raw body, in hex. There may be several `v1`, one for each secret that is in force at Stripe; other
schemes, such as `v0` for tests, do not count.
"""

import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from services.billing.payment.provider import SignatureRefused

HEADER: Final = "stripe-signature"
TOLERANCE_S: Final = 300
"""How far the signed time may be from ours, as in Stripe's own libraries."""
_PARTS_MAX: Final = 16
_HEADER_CHARS_MAX: Final = 2_048
_SECONDS_DIGITS_MAX: Final = 12


def check(header: str | None, body: bytes, secrets: Sequence[str], now: datetime) -> None:
    """Check a header against each secret, in constant time.

    Raises:
        SignatureRefused: it is missing, wrong, or of another time.
    """
    if not header or len(header) > _HEADER_CHARS_MAX or not header.isascii():
        raise SignatureRefused("The signature is missing.")
    parts = [part.partition("=") for part in header.split(",")[:_PARTS_MAX]]
    times = [value for key, _, value in parts if key == "t"]
    signatures = [value for key, _, value in parts if key == "v1"]
    if len(times) != 1 or not times[0].isdecimal() or len(times[0]) > _SECONDS_DIGITS_MAX or not signatures:
        raise SignatureRefused("The signature is not of the documented form.")
    signed = times[0].encode() + b"." + body
    # Every secret is compared with every signature, whether one was right or not.
    right = False
    for secret in secrets:
        expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
        for signature in signatures:
            right |= hmac.compare_digest(expected, signature)
    if not right:
        raise SignatureRefused("The signature is wrong.")
    if abs(now.timestamp() - int(times[0])) > TOLERANCE_S:
        raise SignatureRefused("The signature is too old, or of a time to come.")
