"""Every RPC of every service against every kind of caller: who gets in is what the proto declares, and nothing else."""

import asyncio
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from libs.cli.data_folder import AUDIENCES, CONTEXTS, SERVICE_NAMES
from libs.cli.environment import repository
from libs.common.authentication import SigningKey, mint_token
from libs.common.clock import SystemClock
from tests.system.installation import Installation
from tollhouse.common.v1 import access_pb2

IN_FLIGHT = 32
# A stream that goes on for ever has let its caller in once it has not turned them away for this long.
STREAM_S = 1.0
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED
# What none may see, whatever was sent: a bug, or an RPC that nobody serves.
NEVER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED}


@dataclass(frozen=True)
class Call:
    """One cell of the matrix."""

    method: MethodDescriptor
    caller: str

    def __str__(self) -> str:
        return f"{self.method.full_name} as {self.caller}"


def methods() -> list[MethodDescriptor]:
    """Every method of every service that a proto of ours declares, whether or not anything serves it."""
    protos = repository() / "protos"
    found: list[MethodDescriptor] = []
    for path in sorted(protos.glob("tollhouse/*/v1/*_pb2.py")):
        importlib.import_module(".".join(path.relative_to(protos).with_suffix("").parts))
        file = descriptor_pool.Default().FindFileByName(str(path.relative_to(protos)).replace("_pb2.py", ".proto"))
        found += [method for service in file.services_by_name.values() for method in service.methods]
    return found


def tokens(installation: Installation, folder: Path) -> dict[str, str]:
    """A token of each kind, by the name of its bearer."""
    data, clock = installation.data, SystemClock()
    hour = timedelta(hours=1)
    operator = SigningKey.read(data.signing_key_file("operator"))
    services = {name: SigningKey.read(data.signing_key_file(name)) for name in SERVICE_NAMES}
    stranger = SigningKey.generate(issuer="tollhouse-operator", subject="operator:cli")
    unknown = SigningKey.generate(issuer="stranger", subject="operator:cli")

    def mint(key: SigningKey, lifetime: timedelta = hour, subject: str | None = None, **of: list[str]) -> str:
        return mint_token(
            key, audiences=of.get("audiences", AUDIENCES), lifetime=lifetime, clock=clock, subject=subject
        )

    return {
        "nobody": "",
        "garbage": "garbage",
        "wrong audience": mint(operator, audiences=["treasury.tollhouse"]),
        "expired": mint(operator, lifetime=-hour),
        "unknown issuer": mint(unknown),
        "another's signature": mint(stranger),
        "another's subject": mint(services["gateway"], subject="service:metering"),
        "a service as operator": mint(services["gateway"], subject="operator:gateway"),
        **{f"service {name}": mint(key) for name, key in services.items()},
        "operator": mint(operator),
    }


def expected(call: Call) -> grpc.StatusCode | None:
    """What the proto says must happen; None for getting in."""
    access = call.method.GetOptions().Extensions[access_pb2.access]
    if access.public:
        return None
    if call.caller == "operator":
        return None if access.operators else PERMISSION_DENIED
    if call.caller.startswith("service "):
        name = call.caller.removeprefix("service ")
        return None if name in access.services or "*" in access.services else PERMISSION_DENIED
    return UNAUTHENTICATED


async def outcome(channel: grpc.aio.Channel, method: MethodDescriptor, token: str) -> grpc.StatusCode:
    """Make the call with an empty request and return how it ended."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    request: Message = GetMessageClass(method.input_type)()
    parse = GetMessageClass(method.output_type).FromString
    try:
        if method.client_streaming:
            sending = channel.stream_stream(path, _serialize, parse)
            async for _ in sending(iter([request]), metadata=metadata, timeout=STREAM_S):
                break
        elif method.server_streaming:
            receiving = channel.unary_stream(path, _serialize, parse)
            async for _ in receiving(request, metadata=metadata, timeout=STREAM_S):
                break
        else:
            await channel.unary_unary(path, _serialize, parse)(request, metadata=metadata, timeout=20)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_every_rpc_declares_who_may_call_it() -> None:
    rules = {method.full_name: method.GetOptions().Extensions[access_pb2.access] for method in methods()}
    assert len(rules) > 50
    assert [name for name, rule in rules.items() if not (rule.operators or rule.services or rule.public)] == []


def test_rpcs_name_only_services_that_there_are() -> None:
    named = {name for method in methods() for name in method.GetOptions().Extensions[access_pb2.access].services}
    assert named <= {*SERVICE_NAMES, "*"}


@pytest.mark.parametrize("context", CONTEXTS)
async def test_every_rpc_lets_in_whom_it_declares_and_nobody_else(
    context: str, installation: Installation, tmp_path: Path
) -> None:
    callers = tokens(installation, tmp_path)
    calls = [
        Call(method, caller)
        for method in methods()
        if method.containing_service.file.package == f"tollhouse.{context}.v1"
        for caller in callers
    ]
    outcomes = await _outcomes(installation.endpoints()[context], calls, callers)
    wrong = [f"{call}: {code.name}" for call, code in outcomes.items() if not _is_right(call, code)]
    assert wrong == []
    assert len(outcomes) == len(calls) > 0


async def _outcomes(target: str, calls: list[Call], callers: Mapping[str, str]) -> dict[Call, grpc.StatusCode]:
    bound = asyncio.Semaphore(IN_FLIGHT)
    async with grpc.aio.insecure_channel(target) as channel:

        async def make(call: Call) -> grpc.StatusCode:
            async with bound:
                return await outcome(channel, call.method, callers[call.caller])

        codes = await asyncio.gather(*(make(call) for call in calls))
    return dict(zip(calls, codes, strict=True))


def _is_right(call: Call, code: grpc.StatusCode) -> bool:
    wanted = expected(call)
    if wanted is None:
        return code not in {UNAUTHENTICATED, PERMISSION_DENIED, *NEVER}
    return code is wanted


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
