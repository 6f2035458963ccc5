"""Lemon Squeezy's signature of a webhook, as docs.lemonsqueezy.com/help/webhooks/signing-requests describes it.

`X-Signature` is the HMAC-SHA256 of the raw body, in lower-case hex. Nothing in it says when it was made.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from services.billing.payment.provider import SignatureRefused

HEADER: Final = "x-signature"
_DIGITS: Final = 64


def check(header: str | None, body: bytes, secrets: Sequence[str]) -> None:
    """Check a header against each secret, in constant time.

    Raises:
        SignatureRefused: it is missing or wrong.
    """
    if header is None or len(header) != _DIGITS or not header.isascii():
        raise SignatureRefused("The signature is missing.")
    right = False
    for secret in secrets:
        # Compared as text: upper-case hex is another text, and refused.
        right |= hmac.compare_digest(hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(), header)
    if not right:
        raise SignatureRefused("The signature is wrong.")
