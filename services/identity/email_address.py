"""Email addresses, internationalised ones (RFC 6531) among them: what is one, and when two are the same.

Addresses are stored as they were given and compared by their folded form: the domain as its A-labels in lower case
(IDNA 2008 with the mapping of UTS 46, so that `exämple.test`, `EXÄMPLE.test` and `xn--exmple-cua.test` are one), the
part before the `@` normalised and without differences of case.
"""

import re
from typing import Final

import idna

from libs.common.errors import FieldViolation, InvalidArgument
from services.identity.folding import fold
from services.identity.text import is_harmful

NO_EMAIL: Final = FieldViolation("email", "must be an email address such as ada@example.com")
EMAIL_MAX_LENGTH: Final = 255
_LOCAL: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def folded_email(address: str) -> str | None:
    """Return the form by which an address is compared, or None where the text is no email address."""
    local, at, domain = address.rpartition("@")
    if not at or len(address) > EMAIL_MAX_LENGTH:
        return None
    folded_local, folded_domain = fold(local), _folded_domain(domain)
    if folded_domain is None or not _LOCAL.fullmatch(folded_local):
        return None
    if any(character.isspace() or is_harmful(character) for character in local + folded_local):
        return None
    return f"{folded_local}@{folded_domain}"


def require_email(address: str) -> str:
    """Return the form by which an address is compared.

    Raises:
        InvalidArgument: the text is no email address.
    """
    folded = folded_email(address)
    if folded is None:
        raise InvalidArgument([NO_EMAIL])
    return folded


def folded_login(login: str) -> str:
    """Return the form by which what somebody signs in with is compared: an email address or a username."""
    return folded_email(login) or fold(login)


def _folded_domain(domain: str) -> str | None:
    if not domain.isascii():
        try:
            domain = idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            return None
    folded = domain.lower()
    return folded if all(_LABEL.fullmatch(label) for label in folded.split(".")) else None
