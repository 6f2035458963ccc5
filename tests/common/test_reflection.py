"""Server reflection and the health service, tested over the protocol as clients without our code use them."""

import logging
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2 as pb

from libs.common.reflection import V1, V1ALPHA
from tests.common.test_pipeline import Running, running  # noqa: F401 -- a fixture.
from tollhouse.billing.v1 import account_pb2

LEDGER = "tollhouse.billing.v1.LedgerService"
OTHER = account_pb2.DESCRIPTOR.services_by_name["AccountService"].full_name
"""Not served by the server of these tests."""
LEDGER_FILE = "tollhouse/billing/v1/ledger.proto"


async def ask(
    running: Running,  # noqa: F811
    requests: Sequence[pb.ServerReflectionRequest],
    version: str = V1,
) -> list[pb.ServerReflectionResponse]:
    async def each() -> AsyncIterator[pb.ServerReflectionRequest]:
        for request in requests:
            yield request

    call = running.channel.stream_stream(
        f"/{version}/ServerReflectionInfo",
        request_serializer=pb.ServerReflectionRequest.SerializeToString,
        response_deserializer=pb.ServerReflectionResponse.FromString,
    )
    return [response async for response in call(each(), timeout=5)]


def files_in(response: pb.ServerReflectionResponse) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    assert response.WhichOneof("message_response") == "file_descriptor_response", response
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(file)
        for file in response.file_descriptor_response.file_descriptor_proto
    ]
    return {file.name: file for file in files}


@pytest.mark.parametrize("version", [V1, V1ALPHA])
async def test_both_versions_list_the_services(running: Running, version: str) -> None:  # noqa: F811
    (answer,) = await ask(running, [pb.ServerReflectionRequest(list_services="*")], version)

    names = [service.name for service in answer.list_services_response.service]
    assert names == sorted([LEDGER, "grpc.health.v1.Health", V1, V1ALPHA])


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        (LEDGER, LEDGER_FILE),
        (f"{LEDGER}.Debit", LEDGER_FILE),
        ("tollhouse.billing.v1.DebitRequest", LEDGER_FILE),
        ("tollhouse.billing.v1.DebitRequest.amount", LEDGER_FILE),
        ("tollhouse.billing.v1.DebitRequest.MetadataEntry", LEDGER_FILE),
        ("tollhouse.billing.v1.DebitRequest.MetadataEntry.key", LEDGER_FILE),
        ("tollhouse.billing.v1.TransactionKind", LEDGER_FILE),
        ("tollhouse.billing.v1.TRANSACTION_KIND_DEBIT", LEDGER_FILE),
        ("tollhouse.billing.v1.TransactionKind.TRANSACTION_KIND_DEBIT", LEDGER_FILE),
        ("tollhouse.common.v1.Amount", "tollhouse/common/v1/amount.proto"),
        ("tollhouse.common.v1.access", "tollhouse/common/v1/access.proto"),
        ("buf.validate.Ignore.IGNORE_ALWAYS", "buf/validate/validate.proto"),
        ("google.protobuf.Timestamp.seconds", "google/protobuf/timestamp.proto"),
        ("google.rpc.ErrorInfo", "google/rpc/error_details.proto"),
        (V1, "grpc/reflection/v1/reflection.proto"),
        (f"{V1}.ServerReflectionInfo", "grpc/reflection/v1/reflection.proto"),
        ("grpc.reflection.v1.ErrorResponse.error_code", "grpc/reflection/v1/reflection.proto"),
        (V1ALPHA, "grpc_reflection/v1alpha/reflection.proto"),
        ("grpc.health.v1.Health.List", "grpc_health/v1/health.proto"),
    ],
)
async def test_every_kind_of_symbol_is_resolved(running: Running, symbol: str, file: str) -> None:  # noqa: F811
    (answer,) = await ask(running, [pb.ServerReflectionRequest(file_containing_symbol=symbol)])

    assert file in files_in(answer)


async def test_every_symbol_of_every_served_file_is_resolved(running: Running) -> None:  # noqa: F811
    (answer,) = await ask(running, [pb.ServerReflectionRequest(file_by_filename=LEDGER_FILE)])
    file = files_in(answer)[LEDGER_FILE]
    symbols = [f"{LEDGER}.{method.name}" for service in file.service for method in service.method]
    for message in file.message_type:
        symbols += [f"{file.package}.{message.name}.{field.name}" for field in message.field]
    for enum in file.enum_type:
        symbols += [f"{file.package}.{value.name}" for value in enum.value]

    answers = await ask(running, [pb.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols])

    assert len(symbols) > 100
    assert [s for s, found in zip(symbols, answers, strict=True) if LEDGER_FILE not in files_in(found)] == []


async def test_files_come_with_their_imports_and_can_be_loaded_together(running: Running) -> None:  # noqa: F811
    (answer,) = await ask(running, [pb.ServerReflectionRequest(file_by_filename=LEDGER_FILE)])
    files, pool = files_in(answer), descriptor_pool.DescriptorPool()

    def add(name: str) -> None:
        for imported in files[name].dependency:
            add(imported)
        pool.Add(files[name])  # type: ignore[attr-defined, no-untyped-call, unused-ignore]

    add(LEDGER_FILE)

    debit = pool.FindServiceByName(LEDGER).methods_by_name["Debit"]
    assert debit.input_type.fields_by_name["operation_id"].number == 3


async def test_fields_carry_the_names_they_have_in_json(running: Running) -> None:  # noqa: F811
    (answer,) = await ask(running, [pb.ServerReflectionRequest(file_containing_symbol=LEDGER)])

    fields = [
        field
        for file in files_in(answer).values()
        for message in file.message_type
        for field in (*message.field, *(inner for nested in message.nested_type for inner in nested.field))
    ]
    assert len(fields) > 100
    assert [field.name for field in fields if not field.json_name or "_" in field.json_name] == []
    assert "operationId" in {field.json_name for field in fields if field.name == "operation_id"}


async def test_extensions_are_resolved_by_their_numbers(running: Running) -> None:  # noqa: F811
    options = "google.protobuf.MethodOptions"
    by_number = pb.ServerReflectionRequest()
    by_number.file_containing_extension.containing_type = options
    by_number.file_containing_extension.extension_number = 50101

    numbers, file = await ask(running, [pb.ServerReflectionRequest(all_extension_numbers_of_type=options), by_number])

    assert {50101, 50102} <= set(numbers.all_extension_numbers_response.extension_number)
    assert "tollhouse/common/v1/access.proto" in files_in(file)


@pytest.mark.parametrize(
    "symbol",
    ["", ".", "tollhouse", f"{LEDGER}.Nothing", f"{LEDGER}.Debit.more", "../etc/passwd", "a\0b", "x." * 100_000, "é"],
    ids=lambda symbol: repr(symbol[:20]),
)
async def test_unknown_name_is_answered_and_the_stream_goes_on(running: Running, symbol: str) -> None:  # noqa: F811
    unknown_extension = pb.ServerReflectionRequest()
    unknown_extension.file_containing_extension.containing_type = symbol
    unknown_extension.file_containing_extension.extension_number = -1
    requests = [
        pb.ServerReflectionRequest(file_containing_symbol=symbol),
        pb.ServerReflectionRequest(file_by_filename=symbol),
        pb.ServerReflectionRequest(all_extension_numbers_of_type=symbol),
        unknown_extension,
        pb.ServerReflectionRequest(),
        pb.ServerReflectionRequest(file_containing_symbol=LEDGER),
    ]

    *refused, found = await ask(running, requests)

    not_found, invalid = grpc.StatusCode.NOT_FOUND.value[0], grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert [answer.error_response.error_code for answer in refused] == [not_found] * 4 + [invalid]
    assert LEDGER_FILE in files_in(found)


async def test_health_of_every_service_is_listed(
    running: Running,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    stub = health_pb2_grpc.HealthStub(running.channel)

    # The published types of the library are older than its messages.
    listed = await stub.List(health_pb2.HealthListRequest(), timeout=5)  # type: ignore[attr-defined]

    assert {name: answer.status for name, answer in listed.statuses.items()} == {
        "": health_pb2.HealthCheckResponse.SERVING,
        LEDGER: health_pb2.HealthCheckResponse.SERVING,
    }
    assert caplog.records == []


@pytest.mark.parametrize("request_count", [0, 1])
async def test_rpc_that_is_not_served_says_at_which_port_it_was_asked_for(
    running: Running,  # noqa: F811
    request_count: int,
) -> None:
    call: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = running.channel.stream_stream(f"/{OTHER}/GetBalance")
    with pytest.raises(grpc.aio.AioRpcError, match="the port of billing") as error:
        await call(iter([b"not a message"] * request_count), timeout=5).read()
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
