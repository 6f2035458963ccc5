"""Where a reader of the changes of entitlements is: the text that resumes a stream.

It holds a revision for each shard, and the version of the platform's default plan, in a form that has less than 4,096
characters for 256 shards.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from libs.common.sharding import SHARDS_MAX

_FORM: Final = 1
"""The first number of the text. Another form will have another one."""
_BITS_MAX: Final = 63


@dataclass(frozen=True, slots=True)
class Position:
    """Up to where a reader knows the changes."""

    default_version: int
    """The version of the platform's default plan; 0 for none."""
    revisions: tuple[int | None, ...]
    """The revision of each shard, by its number; None where the reader knows nothing of a shard, nor wants to."""

    def __str__(self) -> str:
        numbers = (0 if revision is None else revision + 1 for revision in self.revisions)
        packed = bytes(_pack([_FORM, self.default_version, len(self.revisions), *numbers]))
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def read_position(text: str) -> Position | None:
    """Return the position that a text stands for; None for a text that `Position` does not write."""
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        form, default_version, count, *numbers = _unpack(packed)
    except (binascii.Error, ValueError):
        return None
    if form != _FORM or not 1 <= count == len(numbers) <= SHARDS_MAX:
        return None
    position = Position(default_version, tuple(number - 1 if number else None for number in numbers))
    return position if str(position) == text else None


def _pack(numbers: Iterable[int]) -> Iterator[int]:
    """Yield the bytes of numbers, seven bits each, the lowest first; all but the last of a number have the top bit."""
    for number in numbers:
        rest = number
        while rest > 0x7F:
            yield rest & 0x7F | 0x80
            rest >>= 7
        yield rest


def _unpack(packed: bytes) -> list[int]:
    numbers, number, bits = [], 0, 0
    for byte in packed:
        number |= (byte & 0x7F) << bits
        bits += 7
        if not byte & 0x80:
            numbers.append(number)
            number, bits = 0, 0
        elif bits > _BITS_MAX:
            raise ValueError(bits)
    if bits:
        raise ValueError(bits)
    return numbers
