"""The pipeline that handles every call, tested with a real server and a real client.

The probe servicer answers billing's `Debit` and `VerifyInvariants`, because an RPC must come from a proto that declares
its access; what it does is chosen by the request's description.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from libs.common.access import UndeclaredAccess
from libs.common.call import current_caller
from libs.common.clock import SystemClock
from libs.common.deadline import time_for_peer_s
from libs.common.errors import Conflict, FieldViolation, InvalidArgument, NotFound
from libs.common.ids import new_id
from libs.common.logs import configure_logs, redact
from libs.common.server import PortTaken, Service
from libs.common.settings import ServiceSettings
from libs.common.status import error_info, field_violations, reason_of, status_in
from tests.support.callers import Callers, Metadata, bearer
from tollhouse.billing.v1 import ledger_pb2 as pb
from tollhouse.billing.v1 import ledger_pb2_grpc as rpc
from tollhouse.billing.v1.account_pb2_grpc import AccountServiceServicer, add_AccountServiceServicer_to_server
from tollhouse.common.v1 import amount_pb2

NOBODY: Metadata = ()


class UnusedDatabase:
    """The pipeline needs no database, but the readiness check pings one."""

    reachable = True

    async def ping(self) -> None:
        if not self.reachable:
            raise OSError("gone")

    async def close(self) -> None:
        """Nothing is open."""


class Probe(rpc.LedgerServiceServicer):
    """Behaves as the request's description says."""

    async def Debit(self, request: pb.DebitRequest, context: object) -> pb.DebitResponse:
        match request.description:
            case "bug":
                raise ValueError("password=hunter2")
            case "not found":
                raise NotFound(resource_type="account", resource_name="a-1")
            case "two fields":
                raise InvalidArgument([FieldViolation("a", "is wrong"), FieldViolation("b", "is worse")])
            case "conflict":
                raise Conflict
            case "slow":
                await asyncio.sleep(30)
        transaction = pb.Transaction(operation_id=current_caller().subject)
        return pb.DebitResponse(transaction=transaction, replayed=time_for_peer_s(1000) < 1000)


class Running:
    """A running probe server and a client of it."""

    def __init__(self, service: Service, port: int, callers: Callers, database: UnusedDatabase) -> None:
        self.service = service
        self.port = port
        self.callers = callers
        self.database = database
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.stub = rpc.LedgerServiceStub(self.channel)

    async def debit(
        self, description: str = "", metadata: Metadata | None = None, timeout_s: float | None = 5, **fields: str
    ) -> pb.DebitResponse:
        request = pb.DebitRequest(
            organization_id=fields.get("organization_id", new_id()),
            operation_id=fields.get("operation_id", "op-1"),
            amount=amount_pb2.Amount(currency_code="USD", value=fields.get("value", "1")),
            description=description,
        )
        metadata = self.callers.operator() if metadata is None else metadata
        return await self.stub.Debit(request, metadata=metadata, timeout=timeout_s)

    async def refusal(self, *arguments: str, **options: object) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.debit(*arguments, **options)  # type: ignore[arg-type]  # options are those of debit.
        return refused.value


def settings(bundle_file: Path, **fields: object) -> ServiceSettings:
    return ServiceSettings.model_validate(
        {"database_url": "postgresql://nobody@127.0.0.1/none", "trust_bundle_file": bundle_file, **fields}
    )


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    callers, database = Callers(tmp_path), UnusedDatabase()
    service = Service(
        "billing",
        settings(callers.bundle_file, default_deadline_ms=400, calls_max=8),
        database,  # type: ignore[arg-type]  # only `ping` and `close` are called here.
        SystemClock(),
    )
    service.add(rpc.add_LedgerServiceServicer_to_server, Probe())  # type: ignore[abstract]  # one RPC is enough here.
    running = Running(service, await service.start(), callers, database)
    yield running
    await running.channel.close()
    await service.stop(grace_s=0)


async def test_refusal_of_very_many_fields_still_reaches_the_caller(running: "Running") -> None:
    """A refusal is sent in metadata, whose size clients limit."""
    request = pb.DebitRequest(metadata={f"{number} {'x' * 3_000}": "" for number in range(60)})
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.stub.Debit(request, metadata=running.callers.operator(), timeout=5)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = field_violations(refused.value)
    assert 10 < len(violations) < 30
    assert violations[""].endswith(" more")
    assert "organization_id" in violations


async def test_handler_knows_its_caller(running: Running) -> None:
    assert (await running.debit()).transaction.operation_id == "operator:alice"
    answer = await running.debit(metadata=running.callers.service("metering"))
    assert answer.transaction.operation_id == "service:metering"


async def test_caller_without_valid_credentials_is_unauthenticated(running: Running) -> None:
    for metadata in (NOBODY, bearer("a.b.c"), (("authorization", "Basic eDp5"),)):
        error = await running.refusal(metadata=metadata)

        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert reason_of(error) == "UNAUTHENTICATED"


async def test_caller_the_rpc_does_not_name_is_denied_before_the_request_is_parsed(running: Running) -> None:
    error = await running.refusal(metadata=running.callers.service("identity"), operation_id="")

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_every_broken_field_is_named_at_once(running: Running) -> None:
    error = await running.refusal(organization_id="x", operation_id="", value="NaN")

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert set(field_violations(error)) == {"organization_id", "operation_id", "amount.value"}


async def test_bytes_that_are_no_message_are_an_invalid_argument(running: Running) -> None:
    raw: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = running.channel.unary_unary(
        "/tollhouse.billing.v1.LedgerService/Debit"
    )

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await raw(b"\xff\xff\xff", metadata=running.callers.operator())
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_request_larger_than_its_rpc_allows_is_an_invalid_argument(running: Running) -> None:
    error = await running.refusal("x" * 300_000)

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "262144 bytes" in (error.details() or "")


async def test_refusal_carries_its_reason_facts_and_details(running: Running) -> None:
    error = await running.refusal("not found")
    status = status_in(error)
    resource = error_details_pb2.ResourceInfo()

    assert error.code() is grpc.StatusCode.NOT_FOUND
    info = error_info(error)
    assert info is not None
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "NOT_FOUND",
        "billing.tollhouse",
        {"resource_type": "account"},
    )
    assert status is not None
    assert any(detail.Unpack(resource) for detail in status.details)
    assert resource.resource_name == "a-1"


async def test_retryable_refusal_says_when_to_retry(running: Running) -> None:
    status = status_in(await running.refusal("conflict"))
    retry = error_details_pb2.RetryInfo()

    assert status is not None
    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.ToMilliseconds() == 50


async def test_violations_found_by_a_handler_look_like_those_of_the_protos(running: Running) -> None:
    assert field_violations(await running.refusal("two fields")) == {"a": "is wrong", "b": "is worse"}


async def test_bug_shows_the_caller_nothing_but_an_error_id(running: Running) -> None:
    error = await running.refusal("bug")
    info = error_info(error)

    assert error.code() is grpc.StatusCode.INTERNAL
    assert info is not None
    assert info.metadata["error_id"]
    assert "hunter2" not in f"{error.details()}{error.trailing_metadata()}"


async def test_call_without_a_deadline_gets_the_default_one(running: Running) -> None:
    error = await running.refusal("slow", timeout_s=None)

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert reason_of(error) == "DEADLINE_EXCEEDED"


async def test_deadline_is_passed_on_to_calls_to_other_services(running: Running) -> None:
    assert (await running.debit()).replayed


async def test_call_beyond_the_limit_is_refused_for_overload_not_for_a_quota(running: Running) -> None:
    slow = [asyncio.create_task(running.refusal("slow", timeout_s=None)) for _ in range(8)]
    await asyncio.sleep(0.1)
    error = await running.refusal()
    await asyncio.gather(*slow)

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(error) == "OVERLOADED"
    assert (await running.debit()).replayed


async def test_taken_port_is_a_clear_error(running: Running, tmp_path: Path) -> None:
    second = Service(
        "billing",
        settings(running.callers.bundle_file, port=running.port),
        UnusedDatabase(),  # type: ignore[arg-type]  # only `ping` and `close` are called here.
        SystemClock(),
    )

    with pytest.raises(PortTaken, match="TOLLHOUSE_BILLING_PORT"):
        await second.start()
    await second.stop(grace_s=0)


async def test_running_calls_finish_when_the_server_drains(running: Running) -> None:
    calls = [asyncio.create_task(running.refusal("slow", timeout_s=None)) for _ in range(3)]
    await asyncio.sleep(0.1)
    await running.service.stop(grace_s=5)

    assert {reason_of(await call) for call in calls} == {"DEADLINE_EXCEEDED"}


async def test_server_waits_for_all_its_rpcs_at_once(tmp_path: Path) -> None:
    """gRPC's server has a task for each method that it knows by name, and looks at all of them with each call."""
    assert await _tasks_of_a_server(tmp_path, larger=True) == await _tasks_of_a_server(tmp_path, larger=False)


async def _tasks_of_a_server(tmp_path: Path, *, larger: bool) -> int:
    """Return how many tasks a server with few RPCs, or with more, has begun."""
    service = Service(
        "billing",
        settings(Callers(tmp_path).bundle_file),
        UnusedDatabase(),  # type: ignore[arg-type]  # only `ping` and `close` are called here.
        SystemClock(),
    )
    service.add(rpc.add_LedgerServiceServicer_to_server, Probe())  # type: ignore[abstract]  # as in `running`.
    if larger:
        service.add(add_AccountServiceServicer_to_server, AccountServiceServicer())  # type: ignore[abstract]  # not called.
    of_others = asyncio.all_tasks()
    await service.start()
    begun = asyncio.all_tasks() - of_others
    await service.stop(grace_s=0)
    return len(begun)


async def test_rpc_without_declared_access_prevents_service_start(tmp_path: Path) -> None:
    from grpc_health.v1 import health, health_pb2_grpc

    service = Service(
        "billing",
        settings(Callers(tmp_path).bundle_file),
        UnusedDatabase(),  # type: ignore[arg-type]  # the database is never used.
        SystemClock(),
    )
    with pytest.raises(UndeclaredAccess, match="Check"):
        service.add(health_pb2_grpc.add_HealthServicer_to_server, health.aio.HealthServicer())


SECRETS = [
    "Bearer abc.def-ghi",
    "eyJhbGciOiJFZDI1NTE5In0.eyJzdWIiOiJ4In0.c2ln",
    "th_live_0123456789abcdefghijABCDEFGHIJ0123456789abcXYZ",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_what_looks_like_a_credential_is_hidden_in_logs(secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    try:
        configure_logs("billing", "INFO")
        logging.getLogger("library").warning("got %s", secret)
        line = json.loads(capsys.readouterr().err)
    finally:
        root.handlers, root.level = handlers, level

    assert secret not in json.dumps(line)
    assert line["event"].startswith("got ")


def test_password_in_an_address_is_hidden() -> None:
    assert redact("postgresql://billing:hunter2@db/x") == "postgresql://[hidden]@db/x"


async def test_caller_who_is_not_let_in_learns_who_would_be(running: Running) -> None:
    error = await running.refusal(metadata=running.callers.service("identity"))

    info = error_info(error)
    assert info is not None
    assert dict(info.metadata) == {"callers": "operators and the services metering"}
    assert error.details() == ("The caller may not make this call. It is open to operators and the services metering.")
