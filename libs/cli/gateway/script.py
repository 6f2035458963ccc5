"""The Lua that Envoy runs for each request: the tables of the contract, and the texts beside this module."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from libs.cli.gateway.descriptors import Binding, bindings, services

REQUEST_BYTES_MAX: Final = 5 * 1024 * 1024
"""The largest body. The services take messages of 4 MiB; JSON, with bytes in base64, takes more room."""
_TEXTS: Final = ("strict.lua", "rest.lua")
_PACKAGE: Final = "tollhouse."
_OF_GOOGLE: Final = tuple(f"google.protobuf.{name}" for name in ("Timestamp", "Duration", "FieldMask"))
"""Messages that are texts, and that the transcoder takes as objects, too."""
_VARIABLE: Final = re.compile(r"\{([a-z_.]+)(=\*\*)?\}")


def script() -> str:
    """Return the whole script."""
    texts = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in _TEXTS]
    return "\n".join([f"local BODY_BYTES_MAX = {REQUEST_BYTES_MAX}", *_messages(), *_bindings(), "", *texts])


def path_pattern(path: str) -> str:
    """Return the Lua pattern of the paths that a template means."""
    pattern, end = "^", 0
    for variable in _VARIABLE.finditer(path):
        pattern += _literal(path[end : variable.start()]) + (".+" if variable[2] else "[^/]+")
        end = variable.end()
    return pattern + _literal(path[end:]) + "$"


def _literal(text: str) -> str:
    return re.sub(r"[^\w/]", r"%\g<0>", text)


def _bindings() -> Iterator[str]:
    """Write the bindings by their verbs; where two patterns fit a path, the one with more text comes first."""
    found: dict[str, list[tuple[Binding, MethodDescriptor]]] = {}
    for service in services():
        for method in service.methods:
            for binding in bindings(method):
                found.setdefault(binding.verb.upper(), []).append((binding, method))
    yield "local BINDINGS = {"
    for verb, listed in sorted(found.items()):
        yield f"  {verb} = {{"
        for binding, method in sorted(listed, key=_order):
            fields = ", ".join(f'["{name}"] = true' for name, _ in _VARIABLE.findall(binding.path))
            body = '"raw"' if binding.is_raw else "true" if binding.body else "false"
            message = _name(method.input_type)
            stream = "true" if method.server_streaming else "false"
            yield f'    {{ "{path_pattern(binding.path)}", "{message}", {body}, {{ {fields} }}, {stream} }},'
        yield "  },"
    yield "}"


def _order(listed: tuple[Binding, MethodDescriptor]) -> tuple[bool, int, str]:
    path = listed[0].path
    return "=**" in path, -len(_VARIABLE.sub("", path)), path


def _messages() -> Iterator[str]:
    """Write the fields of the messages that requests hold."""
    found: dict[str, Descriptor] = {}
    for service in services():
        for method in service.methods:
            if bindings(method):
                _reach(method.input_type, found)
    yield "local MESSAGES = {"
    for name, message in sorted(found.items()):
        fields = ", ".join(f'["{field.name}"] = {_written(field)}' for field in message.fields)
        yield f'  ["{name}"] = {{ {fields} }},'
    yield "}"


def _reach(message: Descriptor, found: dict[str, Descriptor]) -> None:
    if _name(message) in found or not _has_fields(message):
        return
    if not message.GetOptions().map_entry:
        found[_name(message)] = message
    for field in message.fields:
        if field.message_type is not None:
            _reach(field.message_type, found)


def _written(field: FieldDescriptor) -> str:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        value = message.fields_by_name["value"].message_type
        return f'"{{{_name(value)}"' if value is not None and _has_fields(value) else '"{"'
    inner = _name(message) if message is not None and _has_fields(message) else ""
    if field.is_repeated:
        return f'"[{inner}"'
    return f'"{inner}"' if inner else "0"


def _has_fields(message: Descriptor) -> bool:
    """Return whether JSON may write a message as an object of its fields and nothing else."""
    return message.full_name.startswith((_PACKAGE, *_OF_GOOGLE))


def _name(message: Descriptor) -> str:
    return message.full_name.removeprefix(_PACKAGE)
