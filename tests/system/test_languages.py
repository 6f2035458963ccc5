"""The contract as people use it who have neither our code nor our language: grpcurl, descriptor set, Node and Go."""

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from libs.cli.installation.data_folder import CONTEXTS
from libs.cli.installation.environment import repository
from libs.common.ids import new_id
from tests.system.curl import PROGRAM, needs_grpcurl, rpcs_of
from tests.system.installation import Installation, create_organization_and_owner
from tests.system.test_examples import blocks
from tollhouse.billing.v1 import ledger_pb2, ledger_pb2_grpc
from tollhouse.common.v1 import amount_pb2
from tollhouse.identity.v1 import api_key_pb2, api_key_pb2_grpc
from tollhouse.metering.v1 import admission_pb2, model_pb2, model_pb2_grpc

EXAMPLES: Final = repository() / "examples"
NODE, GO, BUF = shutil.which("node"), shutil.which("go"), repository() / "node_modules" / ".bin" / "buf"
NOT_THE_CONTRACT: Final = shutil.ignore_patterns("*.py", "*.pyi", "__pycache__", "node_modules", "gen")
PUBLISHED: Final = FileDescriptorSet.FromString((repository() / "protos" / "tollhouse.binpb").read_bytes())
LONGEST_S: Final = 500

needs_buf = pytest.mark.needs(BUF)
needs_node = pytest.mark.needs(NODE)
needs_go = pytest.mark.needs(GO)


@dataclass(frozen=True)
class Shop:
    """An organization with money, a key of it, and a model with a price."""

    organization_id: str
    key: str
    model: str


async def shop_in(installation: Installation) -> Shop:
    model, usd = f"swift-{new_id()[-6:]}", "USD"
    async with installation.connection().open() as channels:
        organization_id, owner = await create_organization_and_owner(channels)
        key = await api_key_pb2_grpc.ApiKeyServiceStub(channels.identity).CreateApiKey(
            api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, user_id=owner)
        )
        models = model_pb2_grpc.ModelServiceStub(channels.metering)
        await models.CreateModel(model_pb2.CreateModelRequest(model_id=model, provider="acme"))
        prices = model_pb2.TokenPrices(input="3", output="15")
        await models.SetPrice(model_pb2.SetPriceRequest(model_id=model, currency_code=usd, prices=prices))
        await ledger_pb2_grpc.LedgerServiceStub(channels.billing).Credit(
            ledger_pb2.CreditRequest(
                organization_id=organization_id,
                operation_id=new_id(),
                amount=amount_pb2.Amount(currency_code=usd, value="25"),
            )
        )
    return Shop(organization_id, key.secret, model)


@asynccontextmanager
async def losing_answers(target: str, method: str) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Pass calls on to a service, but lose the first answer to a method; give the address and the method's requests."""
    asked: list[bytes] = []

    class Passing(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
            path = handler_call_details.method

            async def answer(request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
                metadata = [pair for pair in context.invocation_metadata() or () if pair[0] == "authorization"]
                call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
                response = await call(request, metadata=metadata, timeout=10)
                if path.endswith(f"/{method}"):
                    asked.append(request)
                    if len(asked) == 1:
                        await context.abort(grpc.StatusCode.UNAVAILABLE, "The answer is lost.")
                return response

            return grpc.unary_unary_rpc_method_handler(answer)

    async with grpc.aio.insecure_channel(target) as channel:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Passing(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}", asked
        finally:
            await server.stop(0)


async def run(*command: str, folder: Path, environment: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run a program to its end; return its exit status, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=os.environ | dict(environment or {}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), LONGEST_S)
    return process.returncode or 0, output.decode(), errors.decode()


async def check_gateway(installation: Installation, folder: Path, *command: str) -> None:
    """Run an example of a gateway: it pays once although an answer is lost, and says why a wrong key is denied."""
    shop, endpoints = await shop_in(installation), installation.endpoints()
    environment = {
        "TOLLHOUSE_KEY_FILE": str(installation.data.path / "keys" / "metering.json"),
        "TOLLHOUSE_BILLING": endpoints["billing"],
        "MODEL": shop.model,
    }
    async with losing_answers(endpoints["metering"], "Settle") as (target, settled):
        environment |= {"TOLLHOUSE_METERING": target}
        status, output, errors = await run(*command, folder=folder, environment=environment | {"API_KEY": shop.key})
        assert (status, errors) == (0, "")
        answer = json.loads(output)
        operations = [admission_pb2.SettleRequest.FromString(request).operation_id for request in settled]
        assert operations == [answer["operation_id"]] * 2
        assert (answer["cost"], answer["replayed"], answer["posted"]) == ("0.008775", True, "24.991225")

        status, output, _ = await run(*command, folder=folder, environment=environment | {"API_KEY": "th_live_wrong"})
        assert (status, json.loads(output)["denied"]) == (2, "DENIAL_REASON_KEY_NOT_FOUND")

    token = str(installation.ready()["operator_token"])
    by_token = environment | {
        "API_KEY": shop.key,
        "TOLLHOUSE_METERING": endpoints["metering"],
        "TOLLHOUSE_KEY_FILE": "",
    }
    status, output, errors = await run(*command, folder=folder, environment=by_token | {"TOLLHOUSE_TOKEN": token})
    assert (status, json.loads(output)["replayed"]) == (0, False), errors
    status, _, errors = await run(*command, folder=folder, environment=by_token | {"TOLLHOUSE_TOKEN": "wrong"})
    assert status == 1
    assert "traceback" not in errors.lower()
    assert len(errors.splitlines()) == 1


def example(name: str, folder: Path) -> Path:
    """Copy an example and the contract, as somebody has them who takes nothing else; return the example's folder."""
    for part in (f"examples/{name}", "protos"):
        shutil.copytree(repository() / part, folder / part, ignore=NOT_THE_CONTRACT)
    return folder / "examples" / name


# Commands that stand together, and the comments below them that show what they print.
_STEP = re.compile(r"((?:(?!#   ).*\n)+)((?:#   .*\n)*)")


@needs_grpcurl
@needs_buf
async def test_commands_of_the_page_on_languages_print_what_it_shows(
    installation: Installation, tmp_path: Path
) -> None:
    steps = [step for block in blocks("languages.md") for step in _STEP.findall(block)]
    # What each step prints goes into a file of its own; variables and functions last for the whole page.
    script = "".join(f"{{\n{commands}}} > {number}.printed 2>&1\n" for number, (commands, _) in enumerate(steps))
    (tmp_path / ".tollhouse").mkdir()
    (tmp_path / ".tollhouse" / "ready.json").write_bytes(installation.ready_file.read_bytes())
    shutil.copytree(repository() / "protos", tmp_path / "protos", ignore=NOT_THE_CONTRACT)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, program in (("grpcurl", PROGRAM), ("buf", BUF), ("python3", Path(sys.executable))):
        (programs / name).symlink_to(program)
    (programs / "protoc").write_text(f'#!/bin/sh\nexec {sys.executable} -m grpc_tools.protoc "$@"\n')
    (programs / "protoc").chmod(0o700)

    path = f"{programs}:{os.environ['PATH']}"
    await run("sh", "-c", script, folder=tmp_path, environment={"PATH": path})

    assert len(steps) > 15
    problems = []
    for number, (commands, shown) in enumerate(steps):
        printed = (tmp_path / f"{number}.printed").read_text()
        missing = [line[4:] for line in shown.splitlines() if line[4:] not in printed]
        if missing or (printed and not shown):
            problems.append(f"{commands}does not print {missing} but\n{printed}")
    assert not problems, "\n".join(problems)
    for name in ("contract", "contract-by-buf"):
        compiled = FileDescriptorSet.FromString((tmp_path / f"{name}.binpb").read_bytes())
        assert names_of(compiled) == names_of(PUBLISHED)


@needs_grpcurl
@pytest.mark.parametrize("context", CONTEXTS)
async def test_grpcurl_describes_every_service_of_a_context(
    context: str, installation: Installation, tmp_path: Path
) -> None:
    services = {f"tollhouse.{rpc.partition('/')[0]}" for rpc in rpcs_of(context)}

    described = await run(str(PROGRAM), "-plaintext", installation.endpoints()[context], "describe", folder=tmp_path)

    assert (described[0], described[2]) == (0, "")
    assert [name for name in sorted(services) if f"{name} is a service:" not in described[1]] == []


def names_of(contract: FileDescriptorSet) -> set[str]:
    """Return the names of all services, messages and enums, and of the files that declare them."""
    names: set[str] = set()
    for file in contract.file:
        if not file.name.startswith("google/protobuf/"):
            names |= {f"{file.name} service {service.name}" for service in file.service}
            names |= {f"{file.name} message {message.name}" for message in file.message_type}
            names |= {f"{file.name} enum {enum.name}" for enum in file.enum_type}
    return names


def test_descriptor_set_holds_everything_that_it_names_with_its_comments() -> None:
    files = {file.name: file for file in PUBLISHED.file}
    assert {imported for file in files.values() for imported in file.dependency} <= set(files)
    assert "google/rpc/error_details.proto" in files
    ours = [file for name, file in files.items() if name.startswith("tollhouse/")]
    assert len(ours) > 20
    assert all(any(place.leading_comments for place in file.source_code_info.location) for file in ours)


@needs_node
async def test_example_in_node_charges_once_although_an_answer_is_lost(
    installation: Installation, tmp_path: Path
) -> None:
    folder = example("node", tmp_path)
    status, _, errors = await run("npm", "ci", "--prefer-offline", "--loglevel=error", folder=folder)
    assert status == 0, errors

    await check_gateway(installation, folder, "node", "gateway.js")


@needs_go
@needs_buf
async def test_example_in_go_charges_once_although_an_answer_is_lost(
    installation: Installation, tmp_path: Path
) -> None:
    folder = example("go", tmp_path)
    # As grpcurl was built, so that what both need is compiled once.
    quick = {"GOFLAGS": "-gcflags=all=-N"}
    for command in ([str(BUF), "generate"], ["go", "build", "-o", "gateway", "."]):
        status, _, errors = await run(*command, folder=folder, environment=quick)
        assert status == 0, errors

    await check_gateway(installation, folder, "./gateway")
