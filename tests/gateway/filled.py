"""Requests with something in every field, and the ways in which REST writes them."""

import itertools
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, urlencode

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from libs.cli.gateway.descriptors import Binding

_DEPTH_MAX: Final = 3
_VARIABLE: Final = re.compile(r"\{([a-z_.]+)(=\*\*)?\}")
_WHOLE: Final = {
    *(FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64),
    *(FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64),
}


def filled_raw(binding: Binding, descriptor: Descriptor, numbers: "itertools.count[int]") -> Message:
    """Return a message with what a body of any bytes can say: the fields of the path, and the body."""
    message = GetMessageClass(descriptor)()
    for found in _VARIABLE.finditer(binding.path):
        field = descriptor.fields_by_name[found[1]]
        setattr(message, field.name, _scalar(field, next(numbers)))
    getattr(message, binding.body).data = b'{ "z":1,"caf\\u00e9" : \xff\x00 "z":2} \n'
    getattr(message, binding.body).content_type = "application/json"
    return message


def filled(descriptor: Descriptor, *, by_query: bool, numbers: "itertools.count[int]", depth: int = 0) -> Message:
    """Return a message with each field set, of a oneof the first; with `by_query` only what a query can say."""
    message = GetMessageClass(descriptor)()
    if isinstance(message, Timestamp | Duration):
        message.seconds = 1_700_000_000 + next(numbers)
        return message
    if isinstance(message, FieldMask):
        message.paths.extend(["display_name", "terms.price"])
        return message
    for field in descriptor.fields:
        oneof = field.containing_oneof
        if oneof is not None and oneof.fields[0] is not field:
            continue
        of_messages = field.message_type is not None and field.is_repeated
        if depth < _DEPTH_MAX and not (by_query and of_messages):
            _fill(message, field, by_query=by_query, numbers=numbers, depth=depth)
    return message


def _fill(
    message: Message, field: FieldDescriptor, *, by_query: bool, numbers: "itertools.count[int]", depth: int
) -> None:
    inner = field.message_type
    if inner is None:
        values = [_scalar(field, next(numbers)) for _ in range(2 if field.is_repeated else 1)]
        getattr(message, field.name).extend(values) if field.is_repeated else setattr(message, field.name, values[0])
    elif inner.GetOptions().map_entry:
        value = inner.fields_by_name["value"]
        for key in ("a.b", 'quote " and \\ ü'):
            entries = getattr(message, field.name)
            if value.message_type is None:
                entries[key] = _scalar(value, next(numbers))
            else:
                entries[key].CopyFrom(filled(value.message_type, by_query=by_query, numbers=numbers, depth=depth + 1))
    else:
        found = filled(inner, by_query=by_query, numbers=numbers, depth=depth + 1)
        if field.is_repeated:
            getattr(message, field.name).append(found)
        else:
            getattr(message, field.name).CopyFrom(found)


def _scalar(field: FieldDescriptor, number: int) -> str | bytes | int | bool:
    if field.enum_type is not None:
        return int(field.enum_type.values[-1].number)
    if field.cpp_type in _WHOLE:
        return number
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return True
    assert field.cpp_type == FieldDescriptor.CPPTYPE_STRING, field.full_name
    if field.type == FieldDescriptor.TYPE_BYTES:
        return b"\x00\xff" + str(number).encode()
    return f'{field.name} {number}+%&=#?"\\<ü'


def as_rest(binding: Binding, request: Message) -> tuple[str, dict[str, object] | bytes | None]:
    """Return the path with its query, and the body, that a binding needs for a request."""
    if binding.is_raw:
        taken_as_it_is: bytes = getattr(request, binding.body).data
        return _VARIABLE.sub(
            lambda found: quote(str(getattr(request, found[1])), safe=""), binding.path
        ), taken_as_it_is
    rest: dict[str, object] = MessageToDict(request)

    def taken(variable: re.Match[str]) -> str:
        value = _take(rest, [_camel(name) for name in variable[1].split(".")])
        return quote(str(value), safe="/" if variable[2] else "")

    path = _VARIABLE.sub(taken, binding.path)
    if binding.body:
        return path, rest
    query = urlencode(list(_flat(rest, "")), quote_via=quote)
    return path + (f"?{query}" if query else ""), None


def _take(document: dict[str, object], names: list[str]) -> object:
    inner = document
    for name in names[:-1]:
        found = inner[name]
        assert isinstance(found, dict)
        inner = found
    return inner.pop(names[-1])


def _flat(document: dict[str, object], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            for one in value if isinstance(value, list) else [value]:
                yield prefix + name, str(one).lower() if isinstance(one, bool) else str(one)


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name)
