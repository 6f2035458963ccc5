"""What the gateway knows of the contract: the descriptors, and the services and methods with a REST mapping."""

import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2

from tollhouse.common.v1 import audit_pb2

_RAW: Final = "google.api.HttpBody"


@dataclass(frozen=True, slots=True)
class Binding:
    """One way in which an RPC can be called over REST."""

    verb: str
    """The HTTP method, in lower case."""
    path: str
    """The path with its variables, such as `/v1/models/{model_id=**}`."""
    body: str
    """`*` where the JSON body holds the fields that are not in the path; empty where the query does; the name of the
    field that takes the body as it is, whatever it holds."""

    @property
    def is_raw(self) -> bool:
        """Whether a field takes the body as it is."""
        return self.body not in ("", "*")


def bindings(method: MethodDescriptor) -> list[Binding]:
    """Return the ways in which an RPC can be called over REST; none for an RPC that is gRPC only."""
    # The stub of the googleapis distribution gives its extension the type of a plain descriptor.
    rule: http_pb2.HttpRule = method.GetOptions().Extensions[annotations_pb2.http]  # type: ignore[index]
    rules = [rule, *rule.additional_bindings] if rule.WhichOneof("pattern") else []
    return [Binding(verb, getattr(one, verb), one.body) for one in rules if (verb := one.WhichOneof("pattern"))]


def is_raw(method: MethodDescriptor, body: str) -> bool:
    """Return whether a field of a request takes any body of an HTTP request as it is, with its content type."""
    field = method.input_type.fields_by_name.get(body)
    return field is not None and field.message_type is not None and field.message_type.full_name == _RAW


@cache
def services() -> tuple[ServiceDescriptor, ...]:
    """Return the services of the contract of which an RPC can be called over REST, by their names."""
    found = [service for file in _files() for service in file.services_by_name.values()]
    return tuple(
        sorted((one for one in found if any(map(bindings, one.methods))), key=lambda service: service.full_name)
    )


def descriptor_set() -> bytes:
    """Return the serialized FileDescriptorSet of the contract and of the messages in errors, each after its imports."""
    ordered: dict[str, FileDescriptor] = {}
    for file in (*_files(), error_details_pb2.DESCRIPTOR, status_pb2.DESCRIPTOR):
        _add(file, ordered)
    described = FileDescriptorSet()
    for file in ordered.values():
        file.CopyToProto(described.file.add())
    return described.SerializeToString(deterministic=True)


@cache
def _files() -> tuple[FileDescriptor, ...]:
    """Return the files of our contract. They are found where their modules are, beside the protos."""
    root = Path(audit_pb2.__file__).parents[3]
    names = sorted(path.relative_to(root).with_suffix("") for path in (root / "tollhouse").rglob("*_pb2.py"))
    modules = [importlib.import_module(".".join(name.parts)) for name in names]
    return tuple(module.DESCRIPTOR for module in modules)


def _add(file: FileDescriptor, ordered: dict[str, FileDescriptor]) -> None:
    if file.name not in ordered:
        for imported in file.dependencies:
            _add(imported, ordered)
        ordered[file.name] = file
