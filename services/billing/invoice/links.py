"""Signs links to documents, and reads them. A link is good for whoever has it, until it expires."""

import base64
import binascii
import hashlib
import hmac
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

from services.billing import invoice_errors

SECRET_BYTES_MIN: Final = 32
_VERSION: Final = 1
_FORM: Final = struct.Struct(">B16s16sQ")
_MAC_BYTES: Final = 32
_CONTEXT: Final = b"tollhouse invoice link\0"
_SECONDS_MAX: Final = 253_402_300_799
"""The last second of the year 9999."""


class Target(NamedTuple):
    """The document that a link names."""

    organization_id: str
    invoice_id: str


class Links:
    """Makes and reads links with one secret. Another secret makes all links invalid that were made before."""

    def __init__(self, secret: bytes, *, base_url: str, lifetime_s: int) -> None:
        if len(secret) < SECRET_BYTES_MIN:
            raise ValueError(f"the secret of invoice links has less than {SECRET_BYTES_MIN} bytes")
        self._secret = secret
        self._base_url = base_url.rstrip("/")
        self._lifetime = timedelta(seconds=lifetime_s)

    @classmethod
    def read(cls, file: Path, *, base_url: str, lifetime_s: int) -> "Links":
        """Return what makes links with the secret in a file. Raises ValueError where that is too short."""
        return cls(file.read_bytes().strip(), base_url=base_url, lifetime_s=lifetime_s)

    def url(self, target: Target, now: datetime) -> tuple[str, datetime]:
        """Return a link to a document, and when it expires."""
        expires = (now + self._lifetime).replace(microsecond=0)
        ids = UUID(target.organization_id).bytes, UUID(target.invoice_id).bytes
        told = _FORM.pack(_VERSION, *ids, int(expires.timestamp()))
        return f"{self._base_url}/v1/invoice-links/{_written(told + self._mac(told))}", expires

    def read_link(self, link: str, now: datetime) -> Target:
        """Return which document a link names.

        Raises:
            LinkNotValid: it is none of ours, was changed, or has expired.
        """
        try:
            signed = base64.b64decode(link + "=" * (-len(link) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raise invoice_errors.LinkNotValid from None
        told, mac = signed[: _FORM.size], signed[_FORM.size :]
        # Everything is compared before anything is read, in a time that does not depend on what is wrong. The last
        # character has bits that no byte takes.
        if len(told) != _FORM.size or not hmac.compare_digest(self._mac(told), mac) or _written(signed) != link:
            raise invoice_errors.LinkNotValid
        version, organization_id, invoice_id, expires_s = _FORM.unpack(told)
        if version != _VERSION or expires_s > _SECONDS_MAX or datetime.fromtimestamp(expires_s, UTC) <= now:
            raise invoice_errors.LinkNotValid
        return Target(str(UUID(bytes=organization_id)), str(UUID(bytes=invoice_id)))

    def _mac(self, told: bytes) -> bytes:
        return hmac.new(self._secret, _CONTEXT + told, hashlib.sha256).digest()[:_MAC_BYTES]


def _written(signed: bytes) -> str:
    return base64.urlsafe_b64encode(signed).rstrip(b"=").decode()
