"""The trust bundle is followed while a service runs: what is added works, what is taken away is refused."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from libs.cli.installation.data_folder import write_private
from libs.common.authentication import RETIRE_TIME, SigningKey, TrustBundle
from libs.common.clock import SystemClock
from libs.common.server import Service
from libs.common.status import reason_of
from libs.common.trust_file import TRUST_BUNDLE_MAX_BYTES, TrustFile
from tests.common.test_pipeline import UnusedDatabase, settings
from tests.support.callers import Callers, Metadata, bearer
from tollhouse.common.v1 import integrity_pb2, integrity_pb2_grpc
from tollhouse.metering.v1 import usage_pb2, usage_pb2_grpc

PROMISED_S = 5.0


async def eventually(ask: Callable[[], Awaitable[bool]], *, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while True:
            if await ask():
                return
            await asyncio.sleep(0.02)


class Streams(usage_pb2_grpc.UsageServiceServicer):
    """Answers each usage of a stream by its operation id."""

    async def StreamUsage(
        self, request_iterator: AsyncIterator[usage_pb2.StreamUsageRequest], context: object
    ) -> AsyncIterator[usage_pb2.StreamUsageResponse]:
        async for request in request_iterator:
            outcome = usage_pb2.UsageOutcome(operation_id=request.usage.operation_id)
            yield usage_pb2.StreamUsageResponse(outcome=outcome)


class Findings(integrity_pb2_grpc.IntegrityServiceServicer):
    """Finds something for ever, as often as `more` is set."""

    def __init__(self) -> None:
        self.more = asyncio.Semaphore(0)

    async def VerifyInvariants(
        self, request: integrity_pb2.VerifyInvariantsRequest, context: object
    ) -> AsyncIterator[integrity_pb2.VerifyInvariantsResponse]:
        while True:
            await self.more.acquire()
            yield integrity_pb2.VerifyInvariantsResponse()


class Running:
    """A running service, and a gateway that its trust bundle may name."""

    def __init__(self, service: Service, port: int, callers: Callers, findings: Findings) -> None:
        self.service = service
        self.callers = callers
        self.findings = findings
        self.file = callers.bundle_file
        self.key = SigningKey.generate(issuer="tollhouse-edge", subject="service:edge", key_id="edge-1")
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.integrity: integrity_pb2_grpc.IntegrityServiceStub = integrity_pb2_grpc.IntegrityServiceStub(self.channel)
        self.usage: usage_pb2_grpc.UsageServiceStub = usage_pb2_grpc.UsageServiceStub(self.channel)

    def trust(self, *keys: SigningKey, retired: dict[str, str] | None = None) -> None:
        """Put a bundle in place that names these keys of the gateway beside everybody else."""
        issuers = list(self.callers.bundle.issuers)
        if keys:
            entry = keys[0].trusted()
            entry.keys = [key.trusted().keys[0] for key in keys]
            for public in entry.keys:
                if str(public["kid"]) in (retired or {}):
                    public[RETIRE_TIME] = (retired or {})[str(public["kid"])]
            issuers.append(entry)
        write_private(self.file, TrustBundle(issuers=issuers).model_dump_json())

    def metadata(self, key: SigningKey | None = None) -> Metadata:
        return bearer(self.callers.token(key or self.key))

    async def accepts(self, metadata: Metadata) -> bool:
        """Tell whether a stream is opened: nothing is sent, so it ends at once where the caller is let in."""
        stream = self.usage.StreamUsage(iter(()), metadata=metadata, timeout=5)
        try:
            assert [response async for response in stream] == []
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                raise
            return False
        return True

    async def refuses(self, metadata: Metadata) -> bool:
        return not await self.accepts(metadata)


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[Running]:
    callers, findings = Callers(folder), Findings()
    database = UnusedDatabase()
    service = Service("metering", settings(callers.bundle_file), database, SystemClock())  # type: ignore[arg-type]
    service.add(integrity_pb2_grpc.add_IntegrityServiceServicer_to_server, findings)
    service.add(usage_pb2_grpc.add_UsageServiceServicer_to_server, Streams())  # type: ignore[abstract]
    running = Running(service, await service.start(), callers, findings)
    try:
        yield running
    finally:
        await running.channel.close()
        await service.stop(grace_s=0)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with started(tmp_path) as running:
        yield running


async def test_gateway_is_accepted_and_refused_without_a_restart(running: Running) -> None:
    metadata = running.metadata()
    assert await running.refuses(metadata)

    running.trust(running.key)
    await eventually(lambda: running.accepts(metadata), within_s=PROMISED_S)
    assert await running.accepts(metadata)  # From memory.

    running.trust()
    await eventually(lambda: running.refuses(metadata), within_s=PROMISED_S)
    assert await running.accepts(running.callers.service("gateway"))


async def test_rotated_key_is_accepted_beside_the_old_one_until_that_retires(running: Running) -> None:
    new = SigningKey.generate(issuer="tollhouse-edge", subject="service:edge", key_id="edge-2")
    forged = SigningKey.generate(issuer="tollhouse-edge", subject="service:edge", key_id="edge-1")
    soon = (SystemClock().now() + timedelta(seconds=1)).isoformat()
    running.trust(running.key)
    await eventually(lambda: running.accepts(running.metadata()), within_s=PROMISED_S)

    running.trust(new, running.key, retired={"edge-1": soon})
    await eventually(lambda: running.accepts(running.metadata(new)), within_s=PROMISED_S)

    assert await running.refuses(running.metadata(forged))
    await eventually(lambda: running.refuses(running.metadata()), within_s=PROMISED_S)
    assert await running.accepts(running.metadata(new))


def damages(running: Running) -> Iterator[bytes]:
    good = running.file.read_bytes()
    yield b""
    yield good[: len(good) // 2]
    yield b"\x00" * 100
    yield good.replace(b'"OKP"', b'"RSA"', 1)
    yield b'{"issuers":' + b"[" * 100_000
    yield b" " * (TRUST_BUNDLE_MAX_BYTES + 1)
    twice = TrustBundle.model_validate_json(good)
    yield TrustBundle(issuers=[*twice.issuers, twice.issuers[0]]).model_dump_json().encode()


async def test_damaged_file_keeps_the_old_bundle_and_is_counted(running: Running) -> None:
    # Looked at by hand, so that each damage is seen.
    trust_file, take = running.service._trust_file, running.service._authenticator.trust
    good, metadata = running.file.read_bytes(), running.callers.service("gateway")
    for damaged in damages(running):
        running.file.write_bytes(damaged)  # In place, as somebody does who does not know better.
        before = trust_file.failures
        await trust_file.look(take)
        assert trust_file.failures > before
        assert await running.accepts(metadata)
        running.file.write_bytes(good)
    for put_in_its_place in (None, os.mkfifo):
        before = trust_file.failures
        running.file.unlink(missing_ok=True)
        if put_in_its_place:
            put_in_its_place(running.file)
        async with asyncio.timeout(PROMISED_S):
            await trust_file.look(take)
        assert trust_file.failures > before
        assert await running.accepts(metadata)

    running.trust(running.key)
    await eventually(lambda: running.accepts(running.metadata()), within_s=PROMISED_S)


async def test_file_that_is_no_bundle_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / "trust.json"
    file.write_text("{}")
    with pytest.raises(ValueError, match="issuers"):
        TrustFile(file)


async def test_bundle_with_the_same_size_and_time_is_taken_up(running: Running) -> None:
    """A rename gives the file another inode, whatever its times say."""
    other = SigningKey.generate(issuer="tollhouse-edge", subject="service:edge", key_id="edge-2")
    running.trust(running.key)
    await eventually(lambda: running.accepts(running.metadata()), within_s=PROMISED_S)
    before = running.file.stat()

    running.trust(other)
    os.utime(running.file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert running.file.stat().st_size == before.st_size
    await eventually(lambda: running.accepts(running.metadata(other)), within_s=PROMISED_S)
    assert await running.refuses(running.metadata())


async def test_open_stream_of_a_revoked_gateway_ends_with_its_next_message(running: Running) -> None:
    running.trust(running.key)
    await eventually(lambda: running.accepts(running.metadata()), within_s=PROMISED_S)
    sent: asyncio.Queue[str] = asyncio.Queue()

    async def usages() -> AsyncIterator[usage_pb2.StreamUsageRequest]:
        while True:
            usage = usage_pb2.RecordUsageRequest(operation_id=await sent.get())
            yield usage_pb2.StreamUsageRequest(usage=usage)

    stream = aiter(running.usage.StreamUsage(usages(), metadata=running.metadata(), timeout=30))
    watch = aiter(
        running.integrity.VerifyInvariants(
            integrity_pb2.VerifyInvariantsRequest(), metadata=running.metadata(), timeout=30
        )
    )
    sent.put_nowait("first")
    running.findings.more.release()
    assert (await anext(stream)).outcome.operation_id == "first"
    assert await anext(watch) == integrity_pb2.VerifyInvariantsResponse()

    # Another gateway's change does not end it.
    running.trust(running.key, SigningKey.generate(issuer="tollhouse-edge", subject="service:edge", key_id="edge-2"))
    await eventually(lambda: _done(running.service._authenticator.bundles == 3), within_s=PROMISED_S)
    sent.put_nowait("second")
    assert (await anext(stream)).outcome.operation_id == "second"

    running.trust()
    await eventually(lambda: running.refuses(running.metadata()), within_s=PROMISED_S)
    sent.put_nowait("third")
    running.findings.more.release()
    for one in (stream, watch):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await anext(one)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert reason_of(refused.value) == "UNAUTHENTICATED"


async def _done(done: bool) -> bool:
    return done
