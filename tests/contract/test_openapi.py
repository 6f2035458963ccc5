"""The OpenAPI document is valid, up to date and complete, and says what the protos demand."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from buf.validate import validate_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from scripts import access_page, openapi
from scripts.json_schema import Schemas
from tollhouse.common.v1 import access_pb2

ENVIRONMENT = Path(sys.prefix) / "openapi"
Document = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Document:
    read: Document = json.loads(openapi.DOCUMENT.read_text(encoding="utf-8"))
    return read


def operations(document: Document) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, verbs in document["paths"].items():
        yield from ((verb, path, operation) for verb, operation in verbs.items())


def methods() -> list[MethodDescriptor]:
    return [method for service in access_page.services() for method in service.methods]


def problems(document: Document) -> list[str]:
    """What openapi-spec-validator, in the environment of its own, says about a document."""
    program = (
        "import json, sys; from openapi_spec_validator import OpenAPIV31SpecValidator as Validator;"
        "print(json.dumps([error.message for error in Validator(json.load(sys.stdin)).iter_errors()]))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(document),
        env={"PYTHONPATH": str(ENVIRONMENT)},
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[str] = json.loads(finished.stdout)
    return found


def test_committed_document_matches_the_protos() -> None:
    assert openapi.DOCUMENT.read_text(encoding="utf-8") == openapi.render()


def test_document_is_valid_openapi_3_1(document: Document) -> None:
    assert document["openapi"].startswith("3.1")
    assert problems(document) == []


def test_validator_finds_what_is_wrong() -> None:
    small: Document = {"openapi": "3.1.0", "info": {"title": "A", "version": "1"}, "paths": {"/a": {"get": {}}}}
    assert problems(small) == []
    small["paths"]["/a"]["get"]["responses"] = {"200": {}}
    assert problems(small) != []


def test_every_address_of_every_rpc_is_an_operation_and_nothing_else_is(document: Document) -> None:
    text = [path for method in methods() for path in _declared(method)]
    assert len(text) > 150
    assert sorted((verb, path) for verb, path, _ in operations(document)) == sorted(text)


def _declared(method: MethodDescriptor) -> Iterator[tuple[str, str]]:
    """Verb and path of each address of an RPC, read from the text of its options, without the generator."""
    options = str(method.GetOptions())
    for verb, template in re.findall(r'\b(get|put|post|delete|patch): "([^"]*)"', options):
        bare = re.sub(r"=[^}]*|(?<=\{)\w+\.", "", template)
        yield verb, re.sub(r"_([a-z])(?=[^{]*\})", lambda found: found[1].upper(), bare)


def test_rpcs_without_an_address_are_named_where_their_service_is_described(document: Document) -> None:
    said = {tag["name"]: tag["description"] for tag in document["tags"]}
    without = [method for method in methods() if not openapi.bindings(method)]
    assert len(without) >= 2
    for method in without:
        assert f"`{method.name}`" in said[openapi.tag_name(method.containing_service)]


def test_every_field_of_a_request_can_be_given_or_is_said_to_be_for_grpc_only(document: Document) -> None:
    named = {operation["operationId"]: operation for _, _, operation in operations(document)}
    for method in methods():
        for binding in openapi.bindings(method)[:1]:
            operation = named[binding.operation_id]
            given = {parameter["name"].split(".")[0] for parameter in operation.get("parameters", [])}
            if binding.raw:
                given.add(binding.raw)
            elif body := operation.get("requestBody"):
                given |= set(_resolved(document, body["content"]["application/json"]["schema"])["properties"])
            chosen = {name for path in binding.path_fields for name in _alternatives(method, path[0])}
            for field in method.input_type.fields:
                told = f"`{field.name}`" in operation["description"].partition("Over gRPC only: ")[2]
                assert field.json_name in given or field.name in chosen or told, field.full_name


def _alternatives(method: MethodDescriptor, name: str) -> set[str]:
    """The other members of a field's oneof: a call that gives the one cannot give them."""
    oneof = method.input_type.fields_by_name[name].containing_oneof
    return {field.name for field in oneof.fields} if oneof else set()


def _resolved(document: Document, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Mapping[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def test_public_rpcs_alone_need_no_credentials(document: Document) -> None:
    public = {operation["operationId"] for _, _, operation in operations(document) if operation.get("security") == []}
    assert public == {
        binding.operation_id
        for method in methods()
        if method.GetOptions().Extensions[access_pb2.access].public
        for binding in openapi.bindings(method)
    }


def test_everything_has_a_description(document: Document) -> None:
    for _, _, operation in operations(document):
        assert operation["description"].count("**Who may call:**") == 1
        assert not operation["description"].startswith("**")
        assert all(parameter["description"] for parameter in operation.get("parameters", []))
    for name, schema in document["components"]["schemas"].items():
        assert schema["description"], name
        assert all(member["description"] for member in schema.get("properties", {}).values()), name


def test_document_names_no_host(document: Document) -> None:
    assert [server["url"] for server in document["servers"]] == ["/"]


@pytest.mark.parametrize(
    ("schema", "name", "expected"),
    [
        ("metering.v1.AuthorizeRequest", "operationId", {"type": "string", "pattern": "^[!-~]{1,255}$"}),
        ("metering.v1.AuthorizeRequest", "inputTokens", {"type": "string", "pattern": "^[0-9]{1,10}$"}),
        ("metering.v1.AuthorizeRequest", "labels", {"maxProperties": 16}),
        ("metering.v1.AuthorizeRequest", "apiKey", {"type": "string", "format": "password"}),
        ("metering.v1.AuthorizeRequest", "estimate", {"$ref": "#/components/schemas/metering.v1.TokenCounts"}),
        ("metering.v1.Principal", "organizationId", {"type": "string", "format": "uuid"}),
        ("metering.v1.Authorization", "createTime", {"type": "string", "format": "date-time"}),
        ("metering.v1.BatchAuthorizeRequest", "requests", {"type": "array", "minItems": 1, "maxItems": 200}),
        ("metering.v1.ImportModelsRequest", "litellmJson", {"type": "string", "contentEncoding": "base64"}),
        ("common.v1.Amount", "currencyCode", {"pattern": "^[A-Z][A-Z0-9]{1,11}$", "maxLength": 12}),
        ("billing.v1.Interval", "unit", {"not": {"enum": ["INTERVAL_UNIT_UNSPECIFIED"]}}),
        ("identity.v1.CreateUserRequest", "metadata", {"type": "object"}),
    ],
)
def test_rules_and_types_of_the_protos_are_in_the_schemas(
    document: Document, schema: str, name: str, expected: Mapping[str, object]
) -> None:
    member = document["components"]["schemas"][schema]["properties"][name]
    assert {key: member.get(key) for key in expected} == expected


def test_fields_that_cannot_be_left_out_are_required_and_a_oneof_is_a_choice(document: Document) -> None:
    authorize = document["components"]["schemas"]["metering.v1.AuthorizeRequest"]
    assert authorize["required"] == ["operationId", "model"]
    assert [choice["required"] for choice in authorize["oneOf"]] == [["apiKey"], ["principal"]]
    assert authorize["additionalProperties"] is False
    assert "required" not in document["components"]["schemas"]["metering.v1.AuthorizeResponse"]


def test_what_the_path_gives_is_not_in_the_body(document: Document) -> None:
    debit = next(each for _, _, each in operations(document) if each["operationId"] == "billing.LedgerService.Debit")
    body = debit["requestBody"]["content"]["application/json"]["schema"]
    in_path = [parameter["name"] for parameter in debit["parameters"]]
    assert in_path
    assert not set(in_path) & set(body["properties"])
    assert not set(in_path) & set(body["required"])


def test_streams_are_told_from_other_answers(document: Document) -> None:
    told = {
        operation["operationId"]
        for _, _, operation in operations(document)
        if operation["responses"]["200"]["description"].startswith("A stream:")
    }
    streaming = [method for method in methods() if method.server_streaming]
    assert told == {binding.operation_id for method in streaming for binding in openapi.bindings(method)}
    assert len(told) > 3


def test_denials_are_answers_with_the_status_of_an_error(document: Document) -> None:
    authorize = document["paths"]["/v1/authorizations"]["post"]["responses"]
    for status in ("401", "402", "403", "429"):
        either = authorize[status]["content"]["application/json"]["schema"]["anyOf"]
        assert [each["$ref"].rpartition("/")[2] for each in either] == ["Status", "metering.v1.AuthorizeResponse"]


def test_examples_are_requests_that_would_be_accepted(document: Document) -> None:
    shown = [
        content
        for _, _, each in operations(document)
        if (content := each.get("requestBody", {"content": {}})["content"].get("application/json"))
    ]
    assert len([content for content in shown if "example" in content]) > 50
    for content in shown:
        for name in content.get("example", {}):
            assert name in _resolved(document, content["schema"])["properties"]


def test_rule_that_has_no_form_in_json_schema_is_refused() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="tollhouse/odd.proto", package="tollhouse.odd", syntax="proto3")
    file.dependency.append("buf/validate/validate.proto")
    field = file.message_type.add(name="Odd").field.add(name="odd", number=1, type=9, label=1)
    field.options.Extensions[validate_pb2.field].string.hostname = True
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    message = pool.FindMessageTypeByName("tollhouse.odd.Odd")
    with pytest.raises(ValueError, match=r"tollhouse\.odd\.Odd\.odd: the rule hostname has no JSON schema here"):
        Schemas({}, [message]).of_message(message)
