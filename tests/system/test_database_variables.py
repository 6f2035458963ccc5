"""The command reads the database address from the `DB_…` variables and from secret files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from libs.cli.installation.environment import repository
from libs.common import postgres
from libs.common.databases import create_database


@pytest.mark.parametrize("in_file", [False, True])
async def test_migrate_reads_the_parts_of_the_database_from_an_env_file(tmp_path: Path, in_file: bool) -> None:
    server = postgres.start(tmp_path / "postgres", port=0)
    try:
        await create_database(server.admin_url, "toll")
        password = (tmp_path / "postgres" / "admin_password").read_text().strip()
        (tmp_path / "password").write_text(password + "\n")
        secret = f"DB_PASSWORD_FILE={tmp_path / 'password'}" if in_file else f"DB_PASSWORD='{password}'"
        lines = ["DB_HOST=127.0.0.1", f"DB_PORT={server.port}", "DB_NAME=toll", "DB_USER=postgres", secret]
        (tmp_path / ".env").write_text("\n".join(lines))

        done = migrate(tmp_path, "--json")
        status = migrate(tmp_path, "--status")

        assert (done.returncode, status.returncode) == (0, 0), done.stderr + status.stderr
        assert "pending" not in status.stdout or "0 pending" in status.stdout
        assert password not in done.stdout + done.stderr + status.stdout + status.stderr
    finally:
        postgres.remove(tmp_path / "postgres")


def test_parts_that_cannot_be_used_are_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DB_HOST=127.0.0.1\nDB_PORT=many\n")
    done = migrate(tmp_path)
    assert done.returncode == 2
    assert all(name in done.stderr for name in ("DB_NAME", "DB_USER", "DB_PORT"))
    assert "Traceback" not in done.stderr


def test_an_env_file_that_is_no_text_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"DB_HOST=\xff\xfe\n")
    done = migrate(tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert ".env: the file cannot be read" in done.stderr


def migrate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `tollhouse migrate` in a folder with a `.env` file, and with no other settings."""
    names = ("DATABASE_URL", "DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment["PYTHONPATH"] = f"{repository()}:{repository() / 'protos'}"
    return subprocess.run(
        [sys.executable, "-m", "libs.cli", "migrate", "--data-dir", str(folder / "data"), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
