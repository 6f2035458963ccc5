"""Server reflection, v1 and v1alpha, for tools such as grpcurl and buf that know no proto files.

The library serves v1alpha only, looks up no methods, fields or enum values, and sends descriptors without JSON names,
so that grpcurl prints and expects `snake_case`. Both versions of the protocol have the same messages with the same
numbers, so one set of handlers serves both.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.json_format import MessageToJson, Parse
from grpc_reflection.v1alpha import reflection_pb2 as pb

V1: Final = "grpc.reflection.v1.ServerReflection"
V1ALPHA: Final = "grpc.reflection.v1alpha.ServerReflection"
_METHOD: Final = "ServerReflectionInfo"


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Serve reflection about the named services, without credentials."""
    answers = _Answers(sorted({*services, V1, V1ALPHA}))
    handler = grpc.stream_stream_rpc_method_handler(
        answers.stream, pb.ServerReflectionRequest.FromString, pb.ServerReflectionResponse.SerializeToString
    )
    for name in (V1, V1ALPHA):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {_METHOD: handler}),))


class _Answers:
    def __init__(self, services: list[str]) -> None:
        self._services = services
        self._pools = (descriptor_pool.Default(), _pool_of_v1())
        self._files: dict[str, bytes] = {}
        self._symbols: dict[str, FileDescriptor] | None = None

    async def stream(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], _context: object
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        async for request in requests:
            yield self._answer(request)

    def _answer(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            match request.WhichOneof("message_request"):
                case "list_services":
                    response.list_services_response.service.extend(pb.ServiceResponse(name=n) for n in self._services)
                case "file_by_filename":
                    self._fill_files(response, self._found(lambda pool: pool.FindFileByName(request.file_by_filename)))
                case "file_containing_symbol":
                    self._fill_files(response, self._file_of_symbol(request.file_containing_symbol))
                case "file_containing_extension":
                    asked = request.file_containing_extension
                    pool = descriptor_pool.Default()
                    extended = pool.FindMessageTypeByName(asked.containing_type)
                    found = pool.FindExtensionByNumber(extended, asked.extension_number)
                    self._fill_files(response, self._file_of_symbol(found.full_name))
                case "all_extension_numbers_of_type":
                    pool = descriptor_pool.Default()
                    extended = pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                    numbers = sorted(extension.number for extension in pool.FindAllExtensions(extended))
                    response.all_extension_numbers_response.base_type_name = extended.full_name
                    response.all_extension_numbers_response.extension_number.extend(numbers)
                case _:
                    _fill_error(response, grpc.StatusCode.INVALID_ARGUMENT, "The request asks for nothing.")
        except KeyError:
            _fill_error(response, grpc.StatusCode.NOT_FOUND, "There is no such symbol, file or extension.")
        return response

    def _file_of_symbol(self, name: str) -> FileDescriptor:
        """Return the file that declares an element; raises KeyError where there is none of this name.

        The pool finds some kinds of elements by itself. The rest is in an index of what the services' files declare,
        which is made when it is first needed.
        """
        try:
            return self._file_with(name)
        except KeyError:
            if self._symbols is None:
                files = _with_imports(map(self._file_with, self._services))
                self._symbols = {name: file for file in files for name in _declared_names(file)}
            return self._symbols[name]

    def _file_with(self, name: str) -> FileDescriptor:
        return self._found(lambda pool: pool.FindFileContainingSymbol(name))

    def _found(self, find: Callable[[descriptor_pool.DescriptorPool], FileDescriptor]) -> FileDescriptor:
        """Return what the first pool that has it finds; raises KeyError where none has it."""
        *others, last = self._pools
        for pool in others:
            try:
                return find(pool)
            except KeyError:
                continue
        return find(last)

    def _fill_files(self, response: pb.ServerReflectionResponse, file: FileDescriptor) -> None:
        """Add a file and all that it imports."""
        response.file_descriptor_response.file_descriptor_proto.extend(map(self._serialized, _with_imports([file])))

    def _serialized(self, file: FileDescriptor) -> bytes:
        known = self._files.get(file.name)
        if known is None:
            declared = descriptor_pb2.FileDescriptorProto()
            file.CopyToProto(declared)
            for message in declared.message_type:
                _add_json_names(message)
            known = self._files[file.name] = declared.SerializeToString(deterministic=True)
        return known


def _pool_of_v1() -> descriptor_pool.DescriptorPool:
    """Return a pool with the protocol's own v1, of which the library has no descriptor: v1alpha in another package."""
    declared = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(declared)
    text = MessageToJson(declared).replace(pb.DESCRIPTOR.name, "grpc/reflection/v1/reflection.proto")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(Parse(text.replace("grpc.reflection.v1alpha", "grpc.reflection.v1"), descriptor_pb2.FileDescriptorProto()))
    return pool


def _with_imports(files: Iterable[FileDescriptor]) -> Iterable[FileDescriptor]:
    """Return the files with all that they import, each once."""
    seen: dict[str, FileDescriptor] = {}
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file.name not in seen:
            seen[file.name] = file
            waiting.extend(file.dependencies)
    return seen.values()


def _add_json_names(message: descriptor_pb2.DescriptorProto) -> None:
    """Write the JSON name of each field into it, as protoc does for its plugins and Python's pool does not."""
    for field in message.field:
        if not field.json_name:
            field.json_name = _json_name(field.name)
    for nested in message.nested_type:
        _add_json_names(nested)


def _json_name(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in others)


def _declared_names(file: FileDescriptor) -> Iterable[str]:
    """Yield the full names of all that a file declares. Enum values have two: beside their enum, and within it."""
    declared = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(declared)
    scope = f"{declared.package}." if declared.package else ""
    for service in declared.service:
        yield scope + service.name
        yield from (f"{scope}{service.name}.{method.name}" for method in service.method)
    yield from _names_in(scope, declared.message_type, declared.enum_type, declared.extension)


def _names_in(
    scope: str,
    messages: Iterable[descriptor_pb2.DescriptorProto],
    enums: Iterable[descriptor_pb2.EnumDescriptorProto],
    extensions: Iterable[descriptor_pb2.FieldDescriptorProto],
) -> Iterable[str]:
    yield from (scope + extension.name for extension in extensions)
    for enum in enums:
        yield scope + enum.name
        for value in enum.value:
            yield scope + value.name
            yield f"{scope}{enum.name}.{value.name}"
    for message in messages:
        inner = f"{scope}{message.name}."
        yield scope + message.name
        yield from (inner + field.name for field in message.field)
        yield from (inner + oneof.name for oneof in message.oneof_decl)
        yield from _names_in(inner, message.nested_type, message.enum_type, message.extension)


def _fill_error(response: pb.ServerReflectionResponse, code: grpc.StatusCode, message: str) -> None:
    response.error_response.error_code = code.value[0]
    response.error_response.error_message = message
