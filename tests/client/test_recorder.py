"""Usage that the recorder has taken is charged once: through crashes, while metering is away, and with a full disk."""

import asyncio
import base64
import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import grpc
import pytest

from libs.common.ids import new_id
from tests.client.conftest import House
from tests.client.test_meter import CHAT, COST, MODEL
from tollhouse.metering.v1 import admission_pb2, usage_pb2
from tollhouse.metering.v1.model_pb2 import TokenCounts
from tollhouse_client import Client, Recorder
from tollhouse_client.errors import (
    ClientClosed,
    Internal,
    RecorderFull,
    SpoolFull,
    SpoolInUse,
    TollhouseError,
    Unavailable,
)
from tollhouse_client.recorder import UsageRequest
from tollhouse_client.spool import REFUSED, Spool

BYTES = 10_000_000
RESENT = "000000000000.spool"
"""The name under which the documentation says that refused usage is sent again."""


def spooled(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*.spool")]


class Away:
    """A client of a metering that is away."""

    def __init__(self) -> None:
        self.tries = 0

    async def record_usage(
        self, request: usage_pb2.RecordUsageRequest, *, timeout_s: float | None = None
    ) -> usage_pb2.RecordUsageResponse:
        self.tries += 1
        raise Unavailable("away")

    async def settle(
        self, request: admission_pb2.SettleRequest, *, timeout_s: float | None = None
    ) -> admission_pb2.SettleResponse:
        raise Unavailable("away")


class Choosy(Away):
    """A client of a metering that records all usage but one, and that one when it is healed."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: set[str] = set()
        self.is_healed = False

    async def record_usage(
        self, request: usage_pb2.RecordUsageRequest, *, timeout_s: float | None = None
    ) -> usage_pb2.RecordUsageResponse:
        if request.operation_id == "poison" and not self.is_healed:
            self.tries += 1
            raise Internal("a fault of metering")
        self.recorded.add(request.operation_id)
        return usage_pb2.RecordUsageResponse()


def usage(house: House, operation_id: str) -> usage_pb2.RecordUsageRequest:
    tokens = TokenCounts(input=1000, output=100)
    return usage_pb2.RecordUsageRequest(
        operation_id=operation_id, organization_id=house.organization_id, model=MODEL, tokens=tokens
    )


def some_usage(operation_id: str) -> usage_pb2.RecordUsageRequest:
    return usage_pb2.RecordUsageRequest(operation_id=operation_id, organization_id=new_id(), model=MODEL)


def segments(folder: Path, suffix: str = "spool") -> list[Path]:
    return sorted(folder.glob(f"*.{suffix}"))


def read_only(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


async def charged(house: House, prefix: str) -> dict[str, Decimal]:
    return {operation: value for operation, value in (await house.charges()).items() if operation.startswith(prefix)}


async def test_taken_usage_is_charged_and_leaves_nothing_in_the_spool(house: House, tmp_path: Path) -> None:
    async with Recorder(house.gateway, tmp_path) as recorder:
        await asyncio.gather(*(recorder.record(usage(house, f"plain-{number}")) for number in range(50)))
        await recorder.flush()
        assert recorder.waiting == 0
    assert await charged(house, "plain-") == {f"plain-{number}": COST for number in range(50)}
    assert segments(tmp_path) == []


async def test_end_of_the_block_sends_what_waits(house: House, tmp_path: Path) -> None:
    async with Recorder(house.gateway, tmp_path, flush_every_s=60) as recorder:
        await recorder.record(usage(house, "exit-1"))
    assert await charged(house, "exit-") == {"exit-1": COST}


async def test_enough_usage_is_sent_before_the_time(house: House, tmp_path: Path) -> None:
    async with Recorder(house.gateway, tmp_path, flush_at=5, flush_every_s=60) as recorder:
        await asyncio.gather(*(recorder.record(usage(house, f"size-{number}")) for number in range(5)))
        async with asyncio.timeout(20):
            await recorder.flush()


async def test_usage_keeps_the_time_at_which_it_was_taken(house: House, tmp_path: Path) -> None:
    request = usage(house, "timed")
    async with Recorder(Away(), tmp_path, close_within_s=0.01) as recorder:
        await recorder.record(request)
    assert not request.HasField("occur_time")
    (entry,) = Spool(tmp_path, BYTES).read()
    assert usage_pb2.RecordUsageRequest.FromString(entry.message).HasField("occur_time")


async def test_what_could_not_be_sent_is_sent_by_the_next_process(house: House, tmp_path: Path) -> None:
    away = Away()
    async with Recorder(away, tmp_path, close_within_s=0.05) as recorder:
        await asyncio.gather(*(recorder.record(usage(house, f"later-{number}")) for number in range(20)))
    assert away.tries >= 20
    assert len(segments(tmp_path)) == 1
    async with Recorder(house.gateway, tmp_path) as recorder:
        await recorder.flush()
    assert await charged(house, "later-") == {f"later-{number}": COST for number in range(20)}
    assert segments(tmp_path) == []


async def test_usage_that_was_sent_before_the_crash_is_charged_once(house: House, tmp_path: Path) -> None:
    async with Recorder(Away(), tmp_path, close_within_s=0.01) as recorder:
        await recorder.record(usage(house, "twice-1"))
    (segment,) = segments(tmp_path)
    kept = segment.read_bytes()
    for _ in range(2):
        segment.write_bytes(kept)
        async with Recorder(house.gateway, tmp_path) as recorder:
            await recorder.flush()
    assert await charged(house, "twice-") == {"twice-1": COST}


async def test_process_that_is_killed_loses_nothing_that_it_acknowledged(house: House, tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    program = """
import asyncio, os, sys
from tests.client.test_recorder import Away, usage_pb2, TokenCounts, MODEL, Recorder

async def main():
    async with Recorder(Away(), sys.argv[1]) as recorder:
        async def one(number):
            request = usage_pb2.RecordUsageRequest(
                operation_id=f"killed-{number}", organization_id=sys.argv[2], model=MODEL,
                tokens=TokenCounts(input=1000, output=100))
            await recorder.record(request)
            os.write(1, f"killed-{number}\\n".encode())
        for begin in range(0, 100000, 20):
            await asyncio.gather(*map(one, range(begin, begin + 20)))

asyncio.run(main())
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(  # noqa: ASYNC220 -- starting it takes no time that others wait for.
        [sys.executable, "-c", program, str(folder), house.organization_id], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        acknowledged = {(await asyncio.to_thread(process.stdout.readline)).decode().strip() for _ in range(60)}
        process.kill()
        acknowledged |= {line.decode().strip() for line in process.stdout if line.endswith(b"\n")}
    async with Recorder(house.gateway, folder) as recorder:
        await recorder.flush()
    found = await charged(house, "killed-")
    assert acknowledged - set(found) == set()
    assert set(found.values()) == {COST}


async def test_torn_last_line_is_left_out_and_a_damaged_one_is_kept_for_people(house: House, tmp_path: Path) -> None:
    async with Recorder(Away(), tmp_path, close_within_s=0.01) as recorder:
        for number in range(3):
            await recorder.record(usage(house, f"torn-{number}"))
    (segment,) = segments(tmp_path)
    first, second, third = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(first + second.replace(b"U", b"V") + third + first[:30])
    async with Recorder(house.gateway, tmp_path) as recorder:
        await recorder.flush()
    assert set(await charged(house, "torn-")) == {"torn-0", "torn-2"}
    assert segments(tmp_path) == []
    assert segments(tmp_path, "damaged") != []


async def test_entry_that_this_version_cannot_read_is_kept_for_people(tmp_path: Path) -> None:
    spool = Spool(tmp_path, BYTES)
    spool.append([("X", b"of a later version"), ("U", b"\xff")])
    spool.close()
    async with Recorder(Away(), tmp_path) as recorder:
        await recorder.flush()
    kept = [line.split()[1] for line in (tmp_path / REFUSED).read_bytes().splitlines()]
    assert (kept, spooled(tmp_path)) == ([b"X", b"U"], [])


async def test_full_recorder_holds_its_callers_back_and_then_refuses_them(tmp_path: Path) -> None:
    async with Recorder(Away(), tmp_path, waiting_max=3, close_within_s=0.01) as recorder:
        for number in range(3):
            await recorder.record(some_usage(f"{number}"))
        with pytest.raises(RecorderFull):
            await recorder.record(some_usage("beyond"), timeout_s=0.05)
    assert len(Spool(tmp_path, BYTES).read()) == 3


async def test_full_spool_is_a_clear_exception_and_nothing_half_is_kept(tmp_path: Path) -> None:
    async with Recorder(Away(), tmp_path, spool_max_bytes=500, close_within_s=0.01) as recorder:
        await recorder.record(some_usage("first"))
        with pytest.raises(SpoolFull):
            await asyncio.gather(*(recorder.record(some_usage(f"{number}")) for number in range(20)))
    assert len(Spool(tmp_path, BYTES).read()) == 1


@contextmanager
def _files_of(bytes_max: int) -> Iterator[None]:
    """Let no file grow beyond a size: what a full disk does, in a way that a test can make."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_full_disk_is_a_clear_exception_and_what_was_taken_before_is_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path, BYTES)
    spool.append([("U", b"a" * 100)])
    with _files_of(300), pytest.raises(SpoolFull, match="cannot be written"):
        spool.append([("U", b"b" * 1000)])
    spool.append([("U", b"c" * 100)])
    spool.close()
    assert [entry.message[:1] for entry in Spool(tmp_path, BYTES).read()] == [b"a", b"c"]


async def test_second_process_is_refused_the_spool(tmp_path: Path) -> None:
    async with Recorder(Away(), tmp_path, close_within_s=0.01):
        with pytest.raises(SpoolInUse):
            async with Recorder(Away(), tmp_path):
                raise AssertionError("both have it")
    async with Recorder(Away(), tmp_path, close_within_s=0.01):
        pass


async def test_usage_that_metering_refuses_is_handed_over_and_delays_no_other(house: House, tmp_path: Path) -> None:
    refused: list[tuple[str, str]] = []

    def note(request: UsageRequest, error: TollhouseError) -> None:
        refused.append((request.operation_id, error.reason))
        raise ValueError("what is told fails, too")

    async with Recorder(house.gateway, tmp_path, on_refused=note) as recorder:
        stranger = usage(house, "refused-1")
        stranger.organization_id = new_id()
        await asyncio.gather(recorder.record(stranger), recorder.record(usage(house, "refused-2")))
        await recorder.flush()
    assert refused == [("refused-1", "ORGANIZATION_NOT_FOUND")]
    assert set(await charged(house, "refused-")) == {"refused-2"}


@pytest.mark.parametrize("tells", [False, True])
async def test_what_is_refused_for_good_is_kept_where_nobody_can_be_told(
    house: House, tmp_path: Path, tells: bool
) -> None:
    def fail(request: UsageRequest, error: TollhouseError) -> None:
        raise LookupError(request.operation_id)

    async with Recorder(house.gateway, tmp_path, on_refused=fail if tells else None) as recorder:
        stranger = usage(house, f"kept-{tells}")
        stranger.organization_id = new_id()
        await recorder.record(stranger)
        await recorder.flush()
    checksum, kind, message = (tmp_path / REFUSED).read_bytes().split()
    assert (len(checksum), kind) == (8, b"u")
    assert usage_pb2.RecordUsageRequest.FromString(base64.b64decode(message)).operation_id == f"kept-{tells}"
    assert spooled(tmp_path) == []


async def test_where_nothing_more_can_be_kept_refused_usage_stays_in_the_spool(house: House, tmp_path: Path) -> None:
    (tmp_path / REFUSED).write_bytes(b"x" * 5_000)
    async with Recorder(house.gateway, tmp_path, spool_max_bytes=5_000, close_within_s=1) as recorder:
        stranger = usage(house, "not-kept")
        stranger.organization_id = new_id()
        await recorder.record(stranger)
    assert spooled(tmp_path) != []


async def test_same_usage_that_is_taken_or_settled_twice_is_charged_once_and_is_no_error(
    house: House, tmp_path: Path
) -> None:
    refused: list[tuple[str, str]] = []
    lost = admission_pb2.AuthorizeRequest(operation_id="twice-2", api_key=house.secret, model=MODEL, input_tokens=1000)
    await house.gateway.authorize(lost)
    settlement = admission_pb2.SettleRequest(
        operation_id="twice-2", organization_id=house.organization_id, model=MODEL, tokens=usage(house, "").tokens
    )
    # Its answer is lost, so that it is handed to the recorder as well.
    await house.gateway.settle(settlement)

    def note(request: UsageRequest, error: TollhouseError) -> None:
        refused.append((request.operation_id, error.facts["field"]))

    async with Recorder(house.gateway, tmp_path, on_refused=note) as recorder:
        await recorder.settle_later(settlement)
        for _ in range(2):
            await recorder.record(usage(house, "twice-1"))
            await recorder.flush()
        other = usage(house, "twice-1")
        other.tokens.input += 1
        await recorder.record(other)
    assert refused == [("twice-1", "tokens")]
    assert await charged(house, "twice-") == {"twice-1": COST, "twice-2": COST}


async def test_settlement_that_metering_cannot_take_is_made_later(house: House, tmp_path: Path) -> None:
    async with house.client() as client, Recorder(house.gateway, tmp_path) as recorder:
        client.meter.settlements = recorder
        client.meter.settle_within_s = 0.001
        async with client.meter.authorize(
            operation_id="settled-later", api_key=house.secret, model=MODEL, input_tokens=1000
        ) as call:
            call.used(CHAT)
        await recorder.flush()
    assert (await house.charges())["settled-later"] == COST


async def test_closed_recorder_takes_nothing(tmp_path: Path) -> None:
    recorder = Recorder(Away(), tmp_path)
    with pytest.raises(ClientClosed):
        await recorder.record(some_usage("early"))
    async with recorder:
        pass
    await recorder.close()
    with pytest.raises(ClientClosed):
        await recorder.record(some_usage("late"))


async def test_lost_credentials_keep_the_usage(house: House, tmp_path: Path) -> None:
    async with (
        Client(metering=f"127.0.0.1:{house.platform.metering_port}") as stranger,
        Recorder(stranger, tmp_path, close_within_s=0.2) as recorder,
    ):
        await recorder.record(usage(house, "unauthenticated"))
        with pytest.raises(TollhouseError) as error:
            await stranger.record_usage(usage(house, "unauthenticated"))
        assert error.value.code is grpc.StatusCode.UNAUTHENTICATED
    assert len(Spool(tmp_path, BYTES).read()) == 1


async def test_disk_that_lets_nothing_be_removed_does_not_end_the_sending(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Recorder(house.gateway, tmp_path) as recorder:
        with monkeypatch.context() as disk:
            for name in ("os.ftruncate", "pathlib.Path.unlink"):
                disk.setattr(name, read_only)
            for number in range(2):
                await recorder.record(usage(house, f"unremoved-{number}"))
                async with asyncio.timeout(10):
                    await recorder.flush()
        await recorder.record(usage(house, "unremoved-2"))
    async with Recorder(house.gateway, tmp_path) as recorder:
        await recorder.flush()
    assert set(await charged(house, "unremoved-")) == {"unremoved-0", "unremoved-1", "unremoved-2"}
    assert segments(tmp_path) == []


async def test_refused_usage_is_kept_behind_a_torn_line_and_sent_again_when_its_file_is_renamed(
    house: House, tmp_path: Path
) -> None:
    (tmp_path / REFUSED).write_bytes(b"0abc U CgV0b3Ju")
    # As one that a gateway with a wrong clock has taken.
    early = usage(house, "early")
    early.occur_time.FromSeconds(4_000_000_000)
    async with Recorder(house.gateway, tmp_path) as recorder:
        await recorder.record(early)
        await recorder.flush()
    torn, _ = (tmp_path / REFUSED).read_bytes().splitlines()
    assert torn == b"0abc U CgV0b3Ju"
    (tmp_path / REFUSED).rename(tmp_path / RESENT)
    spool = Spool(tmp_path, BYTES)
    (entry,) = spool.read()
    spool.close()
    assert usage_pb2.RecordUsageRequest.FromString(entry.message).operation_id == "early"


async def test_usage_that_metering_fails_on_is_tried_again_and_delays_no_other(tmp_path: Path) -> None:
    metering = Choosy()
    async with Recorder(metering, tmp_path, flush_at=10, close_within_s=0.2) as recorder:
        await recorder.record(some_usage("poison"))
        async with asyncio.timeout(5):
            for number in range(60):
                await asyncio.gather(*(recorder.record(some_usage(f"{number}-{one}")) for one in range(10)))
            while len(metering.recorded) < 600:  # noqa: ASYNC110 -- the recorder has no event for it.
                await asyncio.sleep(0.01)
        assert recorder.waiting == 1
        tries = metering.tries
        assert tries < 20
        async with asyncio.timeout(20):
            while metering.tries < tries + 2:  # noqa: ASYNC110 -- the same.
                await asyncio.sleep(0.01)
    metering.is_healed = True
    async with Recorder(metering, tmp_path) as recorder, asyncio.timeout(10):
        await recorder.flush()
    assert "poison" in metering.recorded
    assert spooled(tmp_path) == []


async def test_usage_too_large_to_be_sent_is_set_aside_and_delays_no_other(house: House, tmp_path: Path) -> None:
    async with Recorder(house.gateway, tmp_path) as recorder:
        large = usage(house, "large-1")
        large.endpoint = "x" * 4_200_000
        await asyncio.gather(recorder.record(large), recorder.record(usage(house, "large-2")))
        async with asyncio.timeout(10):
            await recorder.flush()
    assert set(await charged(house, "large-")) == {"large-2"}
    assert (tmp_path / REFUSED).stat().st_size > 4_200_000
