"""Pages of lists: how much one holds, and keyset tokens for where the next begins.

A token is valid only with the query it was made for.
"""

import base64
import binascii
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Final, Protocol, TypeVar

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.ids import is_id
from libs.common.timestamps import time_of_text

PAGE_SIZE_DEFAULT: Final = 50
PAGE_SIZE_MAX: Final = 1000
PAGE_BYTES_MAX: Final = 2_000_000
"""The most that a page holds, unless a single message is larger: clients take answers of up to 4 MiB."""
_PLACE_BYTES: Final = 8
"""What the place of a message in a list takes, at most."""
_TOKEN_MAX_LENGTH: Final = 2048


class Sized(Protocol):
    """A message of a page."""

    def ByteSize(self) -> int:  # noqa: N802 -- protobuf's name.
        """Return how large it is as it is sent, in bytes."""


_M = TypeVar("_M", bound=Sized)


def page_size(requested: int, default: int = PAGE_SIZE_DEFAULT, maximum: int = PAGE_SIZE_MAX) -> int:
    """Return how many rows to give: the default for zero, and never more than the maximum."""
    if requested < 0:
        raise InvalidArgument([FieldViolation("page_size", "must not be negative")])
    return min(requested or default, maximum)


def that_fit(messages: Iterable[_M]) -> list[_M]:
    """Return as many messages, from the first on, as fit into one page; at least one, if there is any."""
    fitting: list[_M] = []
    size = 0
    for message in messages:
        size += message.ByteSize() + _PLACE_BYTES
        if fitting and size > PAGE_BYTES_MAX:
            break
        fitting.append(message)
    return fitting


def foreign_token() -> InvalidArgument:
    """Return the refusal of a token that is of another list, or none of ours."""
    return InvalidArgument([FieldViolation("page_token", "is not a token of this list")])


def encode_page_token(*key: str, fingerprint: str) -> str:
    """Return an opaque token for the page that follows the row with this key.

    The fingerprint names the query (its filters), so that a token is refused with any other.
    """
    return base64.urlsafe_b64encode(json.dumps([fingerprint, *key], separators=(",", ":")).encode()).decode()


def decode_page_token(token: str, fingerprint: str) -> tuple[str, ...]:
    """Return the key within the token.

    Raises:
        InvalidArgument: the token is not one of ours, or belongs to another query.
    """
    try:
        if len(token) > _TOKEN_MAX_LENGTH:
            raise ValueError("too long")
        parts = json.loads(base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True))
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise ValueError("not a list of texts")
        if any("\x00" in part for part in parts):
            raise ValueError("text that no row has")
        "".join(parts).encode()  # JSON can hold lone surrogates.
        if not parts or parts[0] != fingerprint:
            raise ValueError("another query")
        # What a database cannot store is in no key; text with a lone surrogate cannot even be encoded.
        if any("\0" in part.encode().decode() for part in parts):
            raise ValueError("not a key")
    except (ValueError, binascii.Error, RecursionError) as error:
        raise foreign_token() from error
    return tuple(parts[1:])


def time_in_key(text: str) -> datetime:
    """Return the moment that a part of a token's key stands for, as `time_text` writes it.

    Raises:
        InvalidArgument: it stands for none.
    """
    try:
        return time_of_text(text)
    except ValueError as error:
        raise foreign_token() from error


def number_in_key(text: str, most: int) -> int:
    """Return the number from zero that a part of a token's key stands for.

    Raises:
        InvalidArgument: it is no number, or above `most`.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and int(text) <= most):
        raise foreign_token()
    return int(text)


def text_in_token(token: str, fingerprint: str) -> str | None:
    """Return the text after which a page begins, for a list in the order of one text; None for the first page.

    Raises:
        InvalidArgument: the token is not one of ours, or belongs to another query.
    """
    if not token:
        return None
    key = decode_page_token(token, fingerprint)
    if len(key) != 1:
        raise foreign_token()
    return key[0]


def id_in_token(token: str, fingerprint: str) -> str | None:
    """Return the id after which a page begins, for a list in the order of one id; None for the first page.

    Raises:
        InvalidArgument: the token is not one of ours, or belongs to another query.
    """
    key = text_in_token(token, fingerprint)
    if key is not None and not is_id(key):
        raise foreign_token()
    return key
