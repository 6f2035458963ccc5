"""The comments of the protos, by the name of what they describe."""

import re
from collections.abc import Iterator, Mapping
from functools import cache

from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet

from scripts import protos


@cache
def comments() -> Mapping[str, str]:
    """Returns the comment of every service, RPC, message, field, enum and value, by full name, a paragraph a line."""
    found: dict[str, str] = {}
    for file in FileDescriptorSet.FromString(protos.descriptor_set()).file:
        texts = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
        found |= {f"{file.package}.{name}": _paragraphs(texts.get(path, "")) for path, name in _places(file)}
    return found


def _paragraphs(comment: str) -> str:
    """Returns a comment without the line breaks inside of paragraphs; lists keep theirs."""
    lines = "\n".join(line.strip() for line in comment.strip().splitlines())
    return re.sub(r"(?<!\n)\n(?!\n|- )", " ", lines)


def _places(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yields the path and the name of every element of a file; the numbers are those of descriptor.proto."""
    for index, service in enumerate(file.service):
        yield (6, index), service.name
        yield from (
            ((6, index, 2, place), f"{service.name}.{method.name}") for place, method in enumerate(service.method)
        )
    for index, message in enumerate(file.message_type):
        yield from _message_places((4, index), message.name, message)
    for index, enum in enumerate(file.enum_type):
        yield from _enum_places((5, index), enum.name, enum)


def _message_places(
    path: tuple[int, ...], name: str, message: DescriptorProto
) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, name
    yield from (((*path, 2, index), f"{name}.{field.name}") for index, field in enumerate(message.field))
    for index, nested in enumerate(message.nested_type):
        yield from _message_places((*path, 3, index), f"{name}.{nested.name}", nested)
    for index, enum in enumerate(message.enum_type):
        yield from _enum_places((*path, 4, index), f"{name}.{enum.name}", enum)


def _enum_places(path: tuple[int, ...], name: str, enum: EnumDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, name
    around = name.rpartition(".")[0]
    for index, value in enumerate(enum.value):
        yield (*path, 2, index), f"{around}.{value.name}" if around else value.name
