"""What operators rely on: health checks, reflection, graceful shutdown and automatic restart."""

import asyncio
import os
import signal
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from libs.cli.installation.data_folder import CONTEXTS
from libs.cli.installation.health import is_serving
from libs.common import postgres
from libs.common.databases import create_database
from libs.common.ports import free_port
from tests.system.curl import rpcs_of
from tests.system.installation import Installation, create_organization, is_running, running, until
from tollhouse.metering.v1 import usage_pb2, usage_pb2_grpc

BACK_WITHIN_S = 15


async def listed_services(target: str) -> set[str]:
    """List the services by reflection, as `buf curl` and grpcurl do."""
    async with grpc.aio.insecure_channel(target) as channel:
        ask = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        async for answer in ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")])):
            return {service.name for service in answer.list_services_response.service}
    return set()


async def health_of(target: str, service: str) -> str:
    async with grpc.aio.insecure_channel(target) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        answer = await check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


@pytest.mark.parametrize("context", CONTEXTS)
async def test_reflection_lists_every_service_and_health_says_each_serves(
    context: str, installation: Installation
) -> None:
    target = installation.endpoints()[context]
    declared = {f"tollhouse.{rpc.partition('/')[0]}" for rpc in rpcs_of(context)}
    assert declared
    assert declared <= await listed_services(target)
    assert {await health_of(target, name) for name in ("", *declared)} == {"SERVING"}


def test_ready_file_lists_the_running_services(installation: Installation) -> None:
    ready = installation.ready()
    assert {"endpoints", "operator_token", "database_url", "pids"} <= set(ready)
    assert set(installation.endpoints()) == set(CONTEXTS)
    assert set(installation.pids()) == {"postgres", "gateway", *CONTEXTS}
    assert str(ready["gateway"]).startswith("http://127.0.0.1:")
    assert all(is_running(pid) for pid in installation.pids().values())
    assert installation.ready_file.stat().st_mode & 0o077 == 0


def test_secret_files_are_readable_by_their_owner_only(installation: Installation) -> None:
    data = installation.data
    files = [data.pepper_file, data.trust_bundle_file, *(data.path / "keys").iterdir(), data.path / "passwords.json"]
    assert [path.name for path in files if path.stat().st_mode & 0o077] == []
    assert data.path.stat().st_mode & 0o077 == 0


def test_second_up_on_a_data_folder_is_refused(installation: Installation) -> None:
    done = installation.command("up", "--data-dir", str(installation.data_dir))
    assert done.returncode == 1
    assert "Another `tollhouse up` is running" in done.stderr
    assert all(is_running(pid) for pid in installation.pids().values())


@pytest.mark.parametrize("context", CONTEXTS)
async def test_killed_service_restarts_on_its_port(context: str, installation: Installation) -> None:
    killed, target = installation.pids()[context], installation.endpoints()[context]
    os.kill(killed, signal.SIGKILL)

    async def is_back() -> bool:
        return installation.pids()[context] != killed and await is_serving(target)

    await until(is_back, BACK_WITHIN_S, f"{context} is back")
    assert installation.endpoints()[context] == target


async def test_sigterm_lets_running_calls_finish(installation: Installation) -> None:
    """Every call is answered or fails with a retryable status; the effect of an answered call is never lost."""
    pid = installation.pids()["metering"]
    async with installation.connection().open() as channels:
        organization_id = await create_organization(channels)
        stub = usage_pb2_grpc.UsageServiceStub(channels.metering)
        answered: list[str] = []
        failures: list[grpc.StatusCode] = []

        async def keep_recording(worker: int) -> None:
            for number in range(200):
                operation_id = f"drain:{worker}:{number}"
                request = usage_pb2.RecordUsageRequest(
                    operation_id=operation_id, organization_id=organization_id, model="free-of-charge"
                )
                try:
                    await stub.RecordUsage(request)
                    answered.append(operation_id)
                except grpc.aio.AioRpcError as error:
                    failures.append(error.code())

        recording = [asyncio.create_task(keep_recording(worker)) for worker in range(8)]
        await asyncio.sleep(0.3)
        os.kill(pid, signal.SIGTERM)
        await asyncio.gather(*recording)

        async def is_back() -> bool:
            return await is_serving(installation.endpoints()["metering"])

        await until(is_back, BACK_WITHIN_S, "metering is back")
        # gRPC answers CANCELLED to calls that arrive at the moment when the server stops accepting calls.
        assert set(failures) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert answered
        for operation_id in answered[-50:]:
            request = usage_pb2.GetUsageRequest(organization_id=organization_id, operation_id=operation_id)
            await stub.GetUsage(request, wait_for_ready=True)
    assert '"event": "died", "exit": 0' in installation.log("metering")
    assert '"event": "stopped"' in installation.log("metering")


async def test_service_says_not_serving_while_postgres_is_away_and_serves_when_it_is_back(tmp_path: Path) -> None:
    server = await asyncio.to_thread(postgres.start, tmp_path / "postgres", port=free_port())
    try:
        await create_database(server.admin_url, "elsewhere")
        url = server.tcp_url("elsewhere", "postgres", server.admin_password)
        async with running(Installation(tmp_path, ["--database-url", url])) as installation:
            targets = installation.endpoints()
            assert set(installation.pids()) == set(CONTEXTS)
            await asyncio.to_thread(server.stop)

            async def none_serves() -> bool:
                return not any([await is_serving(target) for target in targets.values()])

            async def all_serve() -> bool:
                return all([await is_serving(target) for target in targets.values()])

            before = installation.pids()
            await until(none_serves, BACK_WITHIN_S, "no service says it serves")
            server = await asyncio.to_thread(postgres.start, tmp_path / "postgres", port=server.port)
            await until(all_serve, BACK_WITHIN_S, "all serve again")
            assert installation.pids() == before
    finally:
        await asyncio.to_thread(postgres.remove, tmp_path / "postgres")


async def test_up_ends_with_status_0_and_leaves_nothing_running(tmp_path: Path) -> None:
    installation = Installation(tmp_path)
    async with running(installation):
        pids = installation.pids()
        started_s = time.monotonic()
        assert installation.stop() == 0
    assert time.monotonic() - started_s < 15
    assert [name for name, pid in pids.items() if is_running(pid)] == []
    assert not installation.ready_file.exists()


async def test_killed_up_can_be_started_again(tmp_path: Path) -> None:
    installation = Installation(tmp_path)
    installation.start()
    left = installation.pids()
    installation.kill()
    async with running(installation):
        pids = installation.pids()
        assert [name for name in CONTEXTS if is_running(left[name])] == []
        assert pids["postgres"] == left["postgres"], "the running Postgres must be reused, not started twice"
        assert installation.verify()["violations"] == 0
    assert not is_running(pids["postgres"])


async def test_several_processes_share_one_port(tmp_path: Path) -> None:
    async with running(Installation(tmp_path, ["--workers", "2"])) as installation:
        workers = installation.ready()["workers"]
        assert isinstance(workers, dict)
        assert {context: len(pids) for context, pids in workers.items()} == dict.fromkeys(CONTEXTS, 2)
        assert all(is_running(pid) for pids in workers.values() for pid in pids)
        for target in installation.endpoints().values():
            assert await is_serving(target)
        assert installation.verify()["violations"] == 0


def test_taken_port_is_a_clear_error(installation: Installation, tmp_path: Path) -> None:
    port = installation.endpoints()["identity"].rpartition(":")[2]
    done = installation.command("up", "--data-dir", str(tmp_path / "other"), "--identity-port", port)
    assert done.returncode == 1
    assert "is in use" in done.stderr
