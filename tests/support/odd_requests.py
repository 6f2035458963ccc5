"""Requests with one odd value each, made from the descriptors of the contract, so that no field is left out."""

from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Final, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

SURROGATE: Final = "\ue000"
"""Stands for a lone surrogate, which Python's own serializer would not write; both are three bytes long."""
TEXTS: Final = (
    "",
    " ",
    "\x00",
    "a\x00b",
    SURROGATE,
    "\u202e\u200b\ufeff",
    "\N{FACE WITH TEARS OF JOY}" * 40,
    "İßﬀﷺ" * 16,
    "' OR 1=1; --",
    "../../etc/passwd",
    "%s{0}\\",
    "0198F0AA-0000-7000-8000-00000000000A",
    "odd" * 100,
    "Odd!" * 512,
    "oddity" * 3_400,
    "a@b.cd",
    "W10=",
    "*",
)
_NUMBERS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), -1, 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), -1, 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (2**32 - 1,),
    FieldDescriptor.CPPTYPE_UINT64: (2**64 - 1,),
    FieldDescriptor.CPPTYPE_ENUM: (-1, 99),
    FieldDescriptor.CPPTYPE_BOOL: (True,),
}


def methods_of(files: Sequence[ModuleType]) -> list[MethodDescriptor]:
    """Return the RPCs of the given proto files that take a single message."""
    return [
        method
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if not method.client_streaming
    ]


def as_sent(request: Message) -> bytes:
    """Return the bytes of a request. They may hold invalid UTF-8, which any caller can send."""
    return request.SerializeToString().replace(SURROGATE.encode(), b"\xed\xa0\x80")


def filled(descriptor: Descriptor, known: Mapping[str, object]) -> Message:
    """Return a valid message, as far as its fields can be filled by their names."""
    message: Message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        value = known.get(field.name)
        fits = isinstance(value, list) if field.is_repeated else isinstance(value, str) == _is_text(field)
        if value is not None and fits:
            _Put(field, value)(message)
        elif field.message_type is not None and field.is_repeated and not _is_map(field.message_type):
            _Put(field, [filled(field.message_type, known)])(message)
        elif field.is_repeated or field.containing_oneof is not None:
            continue
        elif field.enum_type is not None:
            setattr(message, field.name, 1)
        elif field.name == "update_mask":
            names = [other.name for other in descriptor.fields]
            paths = [name for name in names if name not in known and name not in ("update_mask", "etag")]
            getattr(message, field.name).paths.extend([*paths, *(name for name in ("name", "email") if name in names)])
    return message


def variants(base: Message, texts: Sequence[str] = TEXTS) -> Iterator[Message]:
    """Return copies of a request, each with one odd value."""
    for field in base.DESCRIPTOR.fields:
        for put in _puts(base, cast(FieldDescriptor, field), texts):
            changed = type(base)()
            changed.CopyFrom(base)
            put(changed)
            yield changed


def _values(base: Message, field: FieldDescriptor, texts: Sequence[str]) -> Iterator[object]:
    """Return the odd values for a field, or for an item of a repeated one."""
    if field.message_type is not None:
        present = getattr(base, field.name)
        if field.is_repeated:
            present = present[0] if present else GetMessageClass(field.message_type)()
        return variants(present, texts)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return iter((b"", b"\xff" * 31, b"\x00" * 32, b"x" * 20_000))
    if field.GetOptions().debug_redact:
        # A value sent as a secret must appear nowhere else, so it is never also sent as the text of another field.
        return (text and f"{text} told to nobody" for text in texts)
    return iter(_NUMBERS.get(field.cpp_type, texts))


def _puts(base: Message, field: FieldDescriptor, texts: Sequence[str]) -> Iterator["_Put"]:
    if _is_map(field.message_type):
        for text in texts:
            yield _Put(field, {text[:300]: "value"})
            yield _Put(field, {"key": text})
        yield _Put(field, {f"key-{number}": "" for number in range(2_000)})
        yield _Put(field, {f"no key {number}": "" for number in range(21)})
    elif field.is_repeated:
        for value in _values(base, field, texts):
            yield _Put(field, [value])
            yield _Put(field, [value, value])
        several = ["a"] * 33 if field.type == FieldDescriptor.TYPE_STRING else [next(_values(base, field, texts))] * 15
        yield _Put(field, several)
    else:
        for value in _values(base, field, texts):
            yield _Put(field, value)


def _is_text(field: FieldDescriptor) -> bool:
    return bool(field.type == FieldDescriptor.TYPE_STRING)


def _is_map(descriptor: Descriptor | None) -> bool:
    return descriptor is not None and descriptor.GetOptions().map_entry


class _Put:
    """Puts a value into a field of a message."""

    def __init__(self, field: FieldDescriptor, value: object) -> None:
        self._field = field
        self._value = value

    def __call__(self, message: Message) -> None:
        name, value = self._field.name, self._value
        if isinstance(value, Message):
            getattr(message, name).CopyFrom(value)
        elif isinstance(value, dict):
            getattr(message, name).update(value)
        elif isinstance(value, list):
            message.ClearField(name)
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
