"""Writes protos/tollhouse/openapi.json: the REST interface as OpenAPI 3.1, from what the protos declare.

Without arguments it writes the document. With `--check` it changes nothing and fails if the committed one is stale.
"""

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

from libs.cli.gateway.descriptors import is_raw
from scripts import access_page, documented_calls
from scripts.comments import comments
from scripts.json_schema import FieldPath, Json, Schema, Schemas, required_fields, short_name
from tollhouse.common.v1 import access_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import MethodOptions
    from google.protobuf.internal.extension_dict import _ExtensionFieldDescriptor

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "protos" / "tollhouse" / "openapi.json"
# The stubs of googleapis-common-protos do not say what the option holds.
HTTP = cast("_ExtensionFieldDescriptor[MethodOptions, http_pb2.HttpRule]", annotations_pb2.http)
_VERBS = ("get", "put", "post", "delete", "patch")
_PARAMETER = re.compile(r"\{([a-z_.0-9]+)(?:=([^}]*))?\}")
_CODES = re.compile(r"`?INSUFFICIENT_BALANCE`?")
INTRODUCTION = """\
Identity, metering and billing for platforms that sell calls of LLM models, over HTTP and JSON. Each operation is an RPC
of the gRPC interface, and the gateway passes on what it is sent.

**Credentials.** `Authorization: Bearer`, followed by an operator's or a service's token, the access token of a session,
or an API key.

**JSON.** Names are in camelCase. 64-bit integers, amounts and moments are text. A field with its zero value (`""`, `0`,
`false`, an empty list, the first value of an enum) is the same as one that is absent, and is left out of answers.
Unknown fields and unknown query parameters are refused. `updateMask` names fields, separated by commas.

**Repeats.** Where a request has an `operationId` or a `requestId`, repeating it has no further effect.

**Errors** are a `google.rpc.Status`: for programs, the `reason` in its `details`; for people, the `message`.
"""
SECURITY: dict[str, Json] = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The token of an operator or a service, signed with its own key, or a session's access token.",
    },
    "apiKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key of a user or a service account: the rights of its owner, limited to its scopes.",
    },
}


@dataclass(frozen=True)
class Answer:
    """How the gateway answers a call that failed."""

    name: str
    description: str
    headers: bool = False


FAILURES: Mapping[str, Answer] = {
    "400": Answer(
        "Invalid", "INVALID_ARGUMENT: the details name every invalid field. FAILED_PRECONDITION: it cannot be done now."
    ),
    "401": Answer("Unauthenticated", "UNAUTHENTICATED: credentials are missing, wrong or expired."),
    "402": Answer(
        "InsufficientBalance", "FAILED_PRECONDITION, reason `INSUFFICIENT_BALANCE`: the account has less available."
    ),
    "403": Answer("Forbidden", "PERMISSION_DENIED: the caller may not do this."),
    "404": Answer("NotFound", "NOT_FOUND: there is no such thing, or none that the caller may know of."),
    "409": Answer("Conflict", "ALREADY_EXISTS or ABORTED: it contradicts what is stored, such as another etag."),
    "413": Answer("TooLarge", "The request is larger than the gateway takes."),
    "429": Answer("TooMany", "RESOURCE_EXHAUSTED: a limit is reached.", headers=True),
    "431": Answer("HeadersTooLarge", "The address and the headers are larger than the gateway takes."),
    "499": Answer("Cancelled", "CANCELLED: the client went away."),
    "503": Answer(
        "Unavailable", "UNAVAILABLE: a service cannot be reached or has too much to do. Try again.", headers=True
    ),
    "504": Answer("TooLate", "DEADLINE_EXCEEDED: there was no answer in time. Repeat it to learn what became of it."),
}
"""What may go wrong, by HTTP status. There is no 500: it would be a fault of ours."""
REFUSALS = {"denial", "allocated"}
"""The fields by which answers tell that they are refusals; libs/common/status.py gives such answers an HTTP status."""
DENIALS = ("401", "402", "403", "429")
"""The statuses of such answers, by their reasons."""
REFUSED_ITEMS = "refused"
"""The field with the items that an answer refuses, which gives the whole answer an HTTP status."""
STATUSES_OF_ITEMS = ("400", "503")
"""The statuses of such answers: some items are wrong, or some can be sent again."""


@dataclass(frozen=True)
class Binding:
    """One way to call an RPC over HTTP."""

    method: MethodDescriptor
    number: int
    """0 for the first of the RPC."""
    verb: str
    template: str
    """The path as the proto declares it, such as `/v1/models/{model_id=**}`."""
    has_body: bool
    raw: str = ""
    """The field that takes the body as it is, whatever it holds; empty where the body is JSON of the request."""

    @property
    def operation_id(self) -> str:
        """The name of the operation, such as `metering.AdmissionService.Settle`."""
        name = ".".join(part for part in short_name(self.method.full_name).split(".") if part != "v1")
        return name if self.number == 0 else f"{name}.{self.number + 1}"

    @property
    def path(self) -> str:
        """The path as OpenAPI writes it."""
        return _PARAMETER.sub(lambda found: f"{{{json_path(found[1].split('.')[-1:])}}}", self.template)

    @property
    def path_fields(self) -> list[FieldPath]:
        """The fields that the path gives."""
        return [tuple(found[1].split(".")) for found in _PARAMETER.finditer(self.template)]


def main() -> int:
    """Parses the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed document, write nothing")
    text = render()
    if not parser.parse_args().check:
        DOCUMENT.write_text(text, encoding="utf-8")
        return 0
    if DOCUMENT.exists() and DOCUMENT.read_text(encoding="utf-8") == text:
        return 0
    print(f"{DOCUMENT.relative_to(ROOT)} is stale: run `make protos`", file=sys.stderr)
    return 1


def render() -> str:
    """Returns the document as text."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def document() -> dict[str, Json]:
    """Returns the document.

    Raises:
        ValueError: an option or a type of the protos has no form in OpenAPI here, or two RPCs share an address.
    """
    services = access_page.services()
    found = [binding for service in services for method in service.methods for binding in bindings(method)]
    schemas = Schemas(comments(), {binding.method.input_type for binding in found})
    examples = documented_calls.examples()
    paths: dict[str, dict[str, Json]] = {}
    for binding in found:
        operations = paths.setdefault(binding.path, {})
        if binding.verb in operations:
            raise ValueError(f"{binding.operation_id}: {binding.verb} {binding.path} is another RPC's, too")
        operations[binding.verb] = operation(binding, schemas, examples.get(binding.method.full_name))
    tagged = [service for service in services if any(bindings(method) for method in service.methods)]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tollhouse", "version": _version(), "summary": "Every metered call charged exactly once.",
                 "description": INTRODUCTION},
        "servers": [{"url": "/", "description": "The gateway that serves this document."}],
        "tags": [tag(service) for service in tagged],
        "x-tagGroups": tag_groups(tagged),
        "security": [{name: []} for name in SECURITY],
        "paths": {path: paths[path] for path in sorted(paths)},
        "components": {
            "securitySchemes": SECURITY,
            "responses": {answer.name: _failure(answer) for answer in FAILURES.values()},
            "schemas": {name: schemas.made[name] for name in sorted(schemas.made)},
        },
    }  # fmt: skip


def bindings(method: MethodDescriptor) -> list[Binding]:
    """Returns the ways to call an RPC over HTTP; none where it is for gRPC alone."""
    rule = method.GetOptions().Extensions[HTTP]
    if rule.WhichOneof("pattern") is None:
        return []
    return [_binding(method, number, each) for number, each in enumerate([rule, *rule.additional_bindings])]


def _binding(method: MethodDescriptor, number: int, rule: http_pb2.HttpRule) -> Binding:
    verb = rule.WhichOneof("pattern")
    raw = rule.body if is_raw(method, rule.body) else ""
    is_file = bool(rule.response_body) and _answers_a_file(method)
    if verb not in _VERBS or not (raw or rule.body in ("", "*")) or (rule.response_body and not is_file):
        raise ValueError(f"{method.full_name}: its HTTP rule has no form in OpenAPI here")
    return Binding(method, number, verb, getattr(rule, verb), rule.body == "*", raw)


def _answers_a_file(method: MethodDescriptor) -> bool:
    """Returns whether over HTTP the answer is a file with a content type of its own: a field of the response."""
    kinds = [field.message_type for field in method.output_type.fields]
    return any(kind is not None and kind.full_name == "google.api.HttpBody" for kind in kinds)


def operation(binding: Binding, schemas: Schemas, example: Mapping[str, Json] | None) -> Schema:
    """Returns what OpenAPI says of one way to call an RPC."""
    method = binding.method
    text = comments()[method.full_name]
    access = method.GetOptions().Extensions[access_pb2.access]
    described: Schema = {
        "operationId": binding.operation_id,
        "tags": [tag_name(method.containing_service)],
        "summary": method.name + (" (another address)" if binding.number else ""),
        "description": "\n\n".join([text, *_limits_of_http(binding), access_text(access)]),
    }
    if access.public:
        described["security"] = []
    if parameters := [*path_parameters(binding, schemas, example), *query_parameters(binding, schemas, example)]:
        described["parameters"] = parameters
    if binding.raw:
        any_bytes: Schema = {"*/*": {"schema": {}}}
        described["requestBody"] = {"required": True, "content": any_bytes}
    elif binding.has_body:
        described["requestBody"] = _body(binding, schemas, example)
    answer: Schema = {} if _answers_a_file(method) else schemas.of_message(method.output_type)
    text_of_answer = "A stream: each line is an object of this schema." if method.server_streaming else "The answer."
    content: Schema = {"application/json": {"schema": answer}}
    if _answers_a_file(method):
        text_of_answer = "A stream: the bytes of the file." if method.server_streaming else "The file itself."
        content = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
    responses: Schema = {"200": {"description": text_of_answer, "content": content}}
    for status, failure in FAILURES.items():
        if _may_fail(status, binding, access, text):
            responses[status] = {"$ref": f"#/components/responses/{failure.name}"}
    if REFUSALS & set(method.output_type.fields_by_name):
        responses |= {status: _denial(FAILURES[status], answer) for status in DENIALS}
    if REFUSED_ITEMS in method.output_type.fields_by_name:
        responses |= {status: _denial(FAILURES[status], answer) for status in STATUSES_OF_ITEMS}
    described["responses"] = responses
    return described


def _denial(failure: Answer, answer: Schema) -> Schema:
    """Returns what is answered where a denial, which is an answer and no error, has a status of its own over HTTP."""
    described = _failure(failure)
    said = f"{failure.description} Or the usual answer, which says why not."
    either: Schema = {"anyOf": [{"$ref": "#/components/schemas/Status"}, answer]}
    return described | {"description": said, "content": {"application/json": {"schema": either}}}


def _may_fail(status: str, binding: Binding, access: access_pb2.Access, text: str) -> bool:
    match status:
        case "401" | "403":
            # Public RPCs check no credentials, but some of them are there to check some, such as sign-ins.
            return not access.public or "UNAUTHENTICATED" in text or "PERMISSION_DENIED" in text
        case "402":
            return _CODES.search(text) is not None
        case _:
            return True


def path_parameters(binding: Binding, schemas: Schemas, example: Mapping[str, Json] | None) -> Iterator[Schema]:
    """Yields the parameters of the path."""
    for found in _PARAMETER.finditer(binding.template):
        path = found[1].split(".")
        text = "May contain slashes, sent as `%2F`." if found[2] == "**" else ""
        yield _parameter("path", path, _field(binding.method.input_type, path), schemas, example, text)


def query_parameters(binding: Binding, schemas: Schemas, example: Mapping[str, Json] | None) -> Iterator[Schema]:
    """Yields the parameters of the query: every field that neither the path nor the body gives."""
    if not binding.has_body and not binding.raw:
        for path in _leaves(binding.method.input_type, ()):
            settled = any(_same_choice(binding.method.input_type, path, given) for given in binding.path_fields)
            if not settled:
                yield _parameter("query", path, _field(binding.method.input_type, path), schemas, example)


def _same_choice(message: Descriptor, path: FieldPath, given: FieldPath) -> bool:
    """Tells whether a field is one that the path gives, or excluded by it because both are of one oneof."""
    if path == given:
        return True
    field, other = _field(message, path[:1]), _field(message, given[:1])
    return field.containing_oneof is not None and field.containing_oneof == other.containing_oneof and field != other


def _leaves(message: Descriptor, before: FieldPath) -> Iterator[FieldPath]:
    if len(before) > 4:
        raise ValueError(f"{message.full_name}: a request without a body holds messages too deep")
    for field in message.fields:
        path = (*before, field.name)
        if field.message_type is None or field.message_type.full_name.startswith("google.protobuf."):
            yield path
        elif not field.is_repeated:
            yield from _leaves(field.message_type, path)


def _without_query(message: Descriptor) -> list[str]:
    """Returns the fields that have no form in a query, which are maps and lists of messages."""
    return [field.name for field in message.fields if field.is_repeated and field.message_type is not None]


def _parameter(
    place: str,
    path: Sequence[str],
    field: FieldDescriptor,
    schemas: Schemas,
    example: Mapping[str, Json] | None,
    text: str = "",
) -> Schema:
    schema = schemas.of_field(field)
    # The names of a path's parameters are not sent; not all tools take dots in them.
    described: Schema = {"name": json_path(path[-1:] if place == "path" else path), "in": place}
    if said := " ".join(part for part in (str(schema.pop("description", "")), text) if part):
        described["description"] = said
    needed = len(path) == 1 and path[0] in required_fields(field.containing_type)
    if place == "path" or needed:
        described["required"] = True
    described["schema"] = schema | ({"minLength": 1} if place == "path" and schema == {"type": "string"} else {})
    value: Json | None = example
    for name in json_path(path).split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if value is not None:
        described["example"] = value
    return described


def _body(binding: Binding, schemas: Schemas, example: Mapping[str, Json] | None) -> Schema:
    message, given = binding.method.input_type, frozenset(binding.path_fields)
    content: Schema = {"schema": schemas.members(message, given) if given else schemas.of_message(message)}
    if example is not None:
        names = {json_path(path) for path in given}
        content["example"] = {name: value for name, value in example.items() if name not in names}
    needed = required_fields(message) - {path[0] for path in given}
    return {"required": bool(needed), "content": {"application/json": content}}


def access_text(access: access_pb2.Access) -> str:
    """Returns who may call an RPC, as a sentence."""
    if access.public:
        return "**Who may call:** anybody, without credentials."
    who = ["operators"] if access.operators else []
    who += ["services"] if "*" in access.services else [f"the service {name}" for name in access.services]
    if access.scope:
        holders = access_pb2.Scope.DESCRIPTOR.values_by_number[access.scope].GetOptions().Extensions[access_pb2.holders]
        who.append(f"users and keys with the scope `{holders.name}`")
    if access.gateway_scope:
        values = access_pb2.Scope.DESCRIPTOR.values_by_number
        scope = values[access.gateway_scope].GetOptions().Extensions[access_pb2.holders]
        whose = " for all organizations" if access.all_organizations else ""
        who.append(f"gateways' keys{whose} with the scope `{scope.name}`")
    if access.self_field:
        who.append(f"the user whom `{json_path([access.self_field])}` names, in a session")
    if access.users:
        who.append("every user and every key")
    return f"**Who may call:** {'; '.join(who)}."


def tag_name(service: ServiceDescriptor) -> str:
    """Returns the tag of a service's operations, such as `metering.AdmissionService`."""
    return short_name(service.full_name).replace(".v1.", ".")


def tag_groups(services: Sequence[ServiceDescriptor]) -> list[Json]:
    """Returns the tags by context, as pages show them."""
    names = [tag_name(service) for service in services]
    contexts = dict.fromkeys(name.partition(".")[0] for name in names)
    return [
        {"name": context, "tags": [name for name in names if name.startswith(f"{context}.")]} for context in contexts
    ]


def tag(service: ServiceDescriptor) -> Schema:
    """Returns the tag of a service, with the RPCs that cannot be called over HTTP."""
    texts = [comments()[service.full_name]]
    if grpc_only := [f"`{method.name}`" for method in service.methods if not bindings(method)]:
        texts.append(f"Over gRPC only: {', '.join(grpc_only)}.")
    return {"name": tag_name(service), "x-displayName": service.name, "description": "\n\n".join(texts)}


def _limits_of_http(binding: Binding) -> Iterator[str]:
    """Yields what is different from gRPC."""
    if binding.method.client_streaming:
        raise ValueError(f"{binding.method.full_name}: a stream of requests has no form in OpenAPI")
    if binding.method.server_streaming and not _answers_a_file(binding.method):
        yield "The answer is a stream: a JSON object on each line, sent as it comes."
    if binding.raw:
        given = {binding.raw, *(path[0] for path in binding.path_fields)}
        rest = ", ".join(f"`{field.name}`" for field in binding.method.input_type.fields if field.name not in given)
        yield "The body is passed on byte by byte, whatever its type, and the headers of the request with it."
        yield f"Over gRPC only: {rest}."
    elif not binding.has_body and (names := _without_query(binding.method.input_type)):
        yield f"Over gRPC only: {', '.join(f'`{name}`' for name in names)}, which a query cannot hold."


def _failure(answer: Answer) -> Schema:
    described: Schema = {
        "description": answer.description,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}},
    }
    if answer.headers:
        text = "After how many seconds to try again, where that is known."
        described["headers"] = {"Retry-After": {"description": text, "schema": {"type": "integer", "minimum": 0}}}
    return described


def json_path(path: Sequence[str]) -> str:
    """Returns the path of a field as JSON names it: `account.accountId` for `account`, `account_id`."""
    return ".".join(re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name) for name in path)


def _field(message: Descriptor, path: Sequence[str]) -> FieldDescriptor:
    field = message.fields_by_name[path[0]]
    return field if field.message_type is None or len(path) == 1 else _field(field.message_type, path[1:])


def _version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


if __name__ == "__main__":
    sys.exit(main())
