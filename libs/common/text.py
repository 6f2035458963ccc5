"""Text from elsewhere, made fit to be stored.

Postgres stores no U+0000, and protobuf refuses a whole message for one text that is not valid UTF-8, such as one with
half of a surrogate pair. Text that only describes must not cost its caller a charge: it is cut and cleaned here. What
the fields allow is in `tollhouse/common/v1/text.proto`.
"""

import codecs
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tollhouse.common.v1 import text_pb2

NUL: Final = "\x00"
REPLACEMENT: Final = "\ufffd"
ELLIPSIS: Final = "…"

_FIELDS_MAX: Final = 50_000
"""How many fields of a message with invalid text are looked at. A batch of 500 usages has about half as many."""


def storable(text: str, chars_max: int, *, with_length: bool = False) -> str:
    """Return text that only describes as it is stored: without U+0000, cut to `chars_max` characters and marked.

    The mark is an ellipsis, and with `with_length` how long the text was.
    """
    if NUL in text:
        text = text.replace(NUL, REPLACEMENT)
    if len(text) <= chars_max:
        return text
    mark = f"{ELLIPSIS} ({len(text)} characters)" if with_length else ELLIPSIS
    return text[: chars_max - len(mark)] + mark


def lengths_of(message: Descriptor) -> dict[str, int]:
    """Return to how many characters each text of a message is cut that only describes, by the names of the fields."""
    options = {field.name: field.GetOptions() for field in message.fields_by_name.values()}
    declared = {name: int(option.Extensions[text_pb2.cut_to_chars]) for name, option in options.items()}
    return {name: chars_max for name, chars_max in declared.items() if chars_max}


class Malformed(ValueError):
    """The bytes are no message of the type, whatever its texts are."""


def with_valid_text(data: bytes, message: Descriptor) -> bytes:
    """Return a serialized message in which every byte that is not UTF-8 in a text field is U+0000.

    The rules of the fields then name those that must not have it, and replace it in text that only describes.

    Raises:
        Malformed: it is no message of this type, or has more than 50,000 fields.
    """
    buffer = bytearray(data)
    fields_left = _FIELDS_MAX
    parts = [(0, len(buffer), message)]
    while parts:
        at, end, descriptor = parts.pop()
        while at < end:
            fields_left -= 1
            if not fields_left:
                raise Malformed
            number, begin, after = _next_field(buffer, at, end)
            field = descriptor.fields_by_number.get(number) if begin < after else None
            if field is None:
                pass
            elif field.type == FieldDescriptor.TYPE_STRING:
                _blank_invalid(buffer, begin, after)
            elif field.message_type is not None:
                parts.append((begin, after, field.message_type))
            at = after
    return bytes(buffer)


def _next_field(data: bytearray, at: int, end: int) -> tuple[int, int, int]:
    """Return a field's number, where its contents begin and where they end; numbers and the like have no contents."""
    tag, at = _varint(data, at, end)
    kind = tag & 7
    if kind == 0:
        begin = after = _varint(data, at, end)[1]
    elif kind == 1:
        begin = after = at + 8
    elif kind == 2:
        length, begin = _varint(data, at, end)
        after = begin + length
    elif kind == 5:
        begin = after = at + 4
    else:
        raise Malformed
    if after > end:
        raise Malformed
    return tag >> 3, begin, after


def _varint(data: bytearray, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise Malformed
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise Malformed


def _blank_invalid(data: bytearray, begin: int, end: int) -> None:
    text = bytes(data[begin:end])
    try:
        text.decode()
    except UnicodeDecodeError:
        data[begin:end] = text.decode(errors=_BLANK).encode()


def _blank(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return NUL * (error.end - error.start), error.end


_BLANK: Final = "tollhouse.blank"
codecs.register_error(_BLANK, _blank)
