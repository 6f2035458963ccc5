"""The recorder's folder: disks that fail, files that somebody has changed, and processes that fork."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.test_recorder import BYTES, Away, read_only, segments, some_usage
from tollhouse.metering.v1 import usage_pb2
from tollhouse_client import Recorder
from tollhouse_client.errors import SpoolFull, SpoolInUse
from tollhouse_client.spool import Spool

FORKING = """
import os, sys
from pathlib import Path
from tollhouse_client.errors import SpoolInUse
from tollhouse_client.spool import Spool

spool = Spool(Path(sys.argv[1]), 1000)
spool.confirm(spool.append([("U", b"before")]))
forked_read, forked_write = os.pipe()
end_read, end_write = os.pipe()
child = os.fork()
if not child:
    os.close(end_write)
    try:
        spool.append([("U", b"in the child")])
    except SpoolInUse:
        spool.close()
        os.write(forked_write, b"x")
    os.read(end_read, 1)
    os._exit(0)
os.close(forked_write)
assert os.read(forked_read, 1)
spool.append([("U", b"in the parent")])
spool.close()
spool = Spool(Path(sys.argv[1]), 1000)
assert [entry.message for entry in spool.read()] == [b"in the parent"]
spool.close()
os.close(end_write)
os.waitpid(child, 0)
"""


async def test_disk_that_becomes_read_only_refuses_usage_plainly_and_is_used_again_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Recorder(Away(), tmp_path, close_within_s=0.01) as recorder:
        await recorder.record(some_usage("before"))
        with monkeypatch.context() as disk:
            for name in ("os.write", "os.ftruncate", "pathlib.Path.unlink", "pathlib.Path.rename"):
                disk.setattr(name, read_only)
            for _ in range(2):
                with pytest.raises(SpoolFull, match="Read-only"):
                    async with asyncio.timeout(5):
                        await recorder.record(some_usage("refused"))
        await recorder.record(some_usage("after"))
    kept = [usage_pb2.RecordUsageRequest.FromString(entry.message) for entry in Spool(tmp_path, BYTES).read()]
    assert [request.operation_id for request in kept] == ["before", "after"]


def test_damaged_segment_is_not_overwritten_by_a_later_one(tmp_path: Path) -> None:
    for text in (b"first", b"second"):
        spool = Spool(tmp_path, BYTES)
        assert spool.read() == []
        spool.append([("U", text)])
        spool.close()
        (segment,) = segments(tmp_path)
        segment.write_bytes(b"00000000" + segment.read_bytes()[8:])
        spool = Spool(tmp_path, BYTES)
        assert spool.read() == []
        spool.close()
    assert len(segments(tmp_path, "damaged")) == 2


async def test_folder_whose_lock_file_was_cleaned_away_is_still_in_use(tmp_path: Path) -> None:
    async with Recorder(Away(), tmp_path, close_within_s=0.01):
        (tmp_path / "lock").unlink()
        with pytest.raises(SpoolInUse):
            await Recorder(Away(), tmp_path).__aenter__()


async def test_folder_that_cannot_be_read_can_be_opened_when_that_is_mended(tmp_path: Path) -> None:
    recorder = Recorder(Away(), tmp_path, close_within_s=0.01)
    unreadable = tmp_path / "000000000001.spool"
    unreadable.mkdir()
    with pytest.raises(IsADirectoryError):
        await recorder.__aenter__()
    unreadable.rmdir()
    async with recorder:
        await recorder.record(some_usage("mended"))


def test_child_of_a_fork_leaves_the_folder_and_what_is_in_it_to_its_parent(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", FORKING, str(tmp_path)], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
