"""The contract, read from its descriptors: every element of our protos with its comment, options and location."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

# Importing these registers the extensions, so that the options of a parsed descriptor can be read by name.
from buf.validate import validate_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

from scripts import protos
from tollhouse.common.v1 import access_pb2, text_pb2

EXTENSIONS = (validate_pb2.DESCRIPTOR, annotations_pb2.DESCRIPTOR, access_pb2.DESCRIPTOR, text_pb2.DESCRIPTOR)

# Field numbers of descriptor.proto, which are the steps of a path to a comment.
_MESSAGE, _ENUM, _SERVICE, _METHOD, _FIELD, _NESTED_MESSAGE, _NESTED_ENUM, _VALUE = 4, 5, 6, 2, 2, 3, 4, 2


@dataclass(frozen=True)
class Element:
    """An element of the contract that needs a comment, such as a message or a field."""

    name: str
    comment: str


@cache
def files() -> tuple[FileDescriptorProto, ...]:
    """Our own proto files, with their comments."""
    parsed = FileDescriptorSet.FromString(protos.descriptor_set())
    return tuple(file for file in parsed.file if file.package.startswith("tollhouse."))


@cache
def messages() -> dict[str, DescriptorProto]:
    """Every message by its full name, nested ones included, the entries of maps left out."""

    def below(prefix: str, found: DescriptorProto) -> Iterator[tuple[str, DescriptorProto]]:
        name = f"{prefix}.{found.name}"
        yield name, found
        for nested in found.nested_type:
            if not nested.options.map_entry:
                yield from below(name, nested)

    return {
        name: message for file in files() for top in file.message_type for name, message in below(file.package, top)
    }


def enums() -> Iterator[tuple[str, EnumDescriptorProto]]:
    for file in files():
        yield from ((f"{file.package}.{enum.name}", enum) for enum in file.enum_type)
    for name, message in messages().items():
        yield from ((f"{name}.{enum.name}", enum) for enum in message.enum_type)


def methods() -> Iterator[tuple[str, MethodDescriptorProto]]:
    """Every RPC as `tollhouse.billing.v1.LedgerService/Debit`."""
    for file in files():
        for service in file.service:
            yield from ((f"{file.package}.{service.name}/{method.name}", method) for method in service.method)


def fields() -> Iterator[tuple[str, FieldDescriptorProto]]:
    for name, message in messages().items():
        yield from ((f"{name}.{field.name}", field) for field in message.field)


def fields_reachable_from(
    message_name: str, seen: frozenset[str] = frozenset()
) -> Iterator[tuple[str, FieldDescriptorProto]]:
    """Every field of ours a sender of the message can fill, at any depth."""
    if message_name not in messages() or message_name in seen:
        return
    for field in messages()[message_name].field:
        yield f"{message_name}.{field.name}", field
        yield from fields_reachable_from(field.type_name.removeprefix("."), seen | {message_name})


def elements() -> Iterator[Element]:
    """Every service, RPC, message, field, enum and enum value of the contract with its leading comment."""
    for file in files():
        comments = {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}
        for path, name in _named_paths(file):
            yield Element(f"{file.package}.{name}", comments.get(path, ""))


def _named_paths(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    for index, service in enumerate(file.service):
        yield (_SERVICE, index), service.name
        for place, method in enumerate(service.method):
            yield (_SERVICE, index, _METHOD, place), f"{service.name}/{method.name}"
    for index, message in enumerate(file.message_type):
        yield from _message_paths((_MESSAGE, index), message.name, message)
    for index, enum in enumerate(file.enum_type):
        yield from _enum_paths((_ENUM, index), enum.name, enum)


def _message_paths(path: tuple[int, ...], name: str, message: DescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, name
    for index, field in enumerate(message.field):
        yield (*path, _FIELD, index), f"{name}.{field.name}"
    for index, enum in enumerate(message.enum_type):
        yield from _enum_paths((*path, _NESTED_ENUM, index), f"{name}.{enum.name}", enum)
    for index, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from _message_paths((*path, _NESTED_MESSAGE, index), f"{name}.{nested.name}", nested)


def _enum_paths(path: tuple[int, ...], name: str, enum: EnumDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, name
    for index, value in enumerate(enum.value):
        yield (*path, _VALUE, index), f"{name}.{value.name}"
