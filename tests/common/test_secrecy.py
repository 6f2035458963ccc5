"""The check for leaked secrets finds them and fails the tests that leak them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from libs.cli.installation.data_folder import CONTEXTS, SERVICE_NAMES
from libs.cli.installation.environment import repository
from libs.common.authentication import SigningKey
from services.identity.api_key.secret import new_secret
from tests.support.secrecy import WATCH, SecretWatch
from tests.system.installation import Installation, look_through_logs
from tollhouse.identity.v1 import api_key_pb2

WITHIN_S = 100


def test_planted_secrets_fail_the_tests_that_leak_them() -> None:
    """Runs pytest in a separate process with several workers, as the whole suite runs."""
    command = [sys.executable, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", "tests/support/planted.py"]
    # The inner run must not take itself for a worker of this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run(
        command, cwd=repository(), env=environment, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    failed = dict(re.findall(r"teardown of (\w+) _+\n[^\n]*\nA secret got out: ([\w ]+)", run.stdout))
    assert run.returncode == 1, run.stdout
    assert failed == {
        "test_secret_without_a_shape_in_the_log": "the log",
        "test_secret_in_a_refusal": "the refusal of tollhouse",
        "test_secret_in_a_table": "the table identity",
        "test_secret_in_the_output": "the output",
    }
    assert "5 passed" in run.stdout


# Created when the test runs, because the workers of a run must agree on the names of its tests.
SHAPED: dict[str, Callable[[], str]] = {
    "live key": lambda: new_secret(live=True),
    "test key": lambda: new_secret(live=False),
    "token": lambda: "eyJhbGciOiJFZDI1NTE5In0.eyJzdWIiOiJ4In0.c2ln",
    "private key": lambda: "-----BEGIN PRIVATE KEY-----",
    "address of a database": lambda: "postgresql://tollhouse_billing:hunter2@db/tollhouse",
    "private JWK": lambda: json.dumps(SigningKey.generate(issuer="one", subject="service:one").key),
}


@pytest.mark.parametrize("shape", SHAPED)
def test_secret_of_a_known_format_is_found(shape: str) -> None:
    secret = SHAPED[shape]()
    watch = SecretWatch()
    watch.scan("a text", f"before {secret} after")
    assert len(watch.take_leaks()) == 1
    assert watch.take_leaks() == []


def test_secret_in_a_marked_field_at_any_depth_is_found() -> None:
    watch = SecretWatch()
    watch.note_message(api_key_pb2.VerifyApiKeyRequest(key="nothing like a key", model="swift-1"))
    watch.scan("a text", "swift-1")
    assert watch.take_leaks() == []
    watch.scan("a text", "it was nothing like a key")
    assert watch.take_leaks() == ["a text: nothing like…"]


async def test_secret_in_any_table_of_a_context_is_found(database_admin_url: str) -> None:
    watch, secret = SecretWatch(), "granite otter 58 umbrella"
    watch.note(secret)
    connection = await asyncpg.connect(database_admin_url)
    for statement in (
        "CREATE TABLE identity.planted (note text)",
        "CREATE TABLE billing_00.planted (note text)",
        "CREATE TABLE metering_00.planted (note text) PARTITION BY LIST (note)",
        "CREATE TABLE metering_00.planted_default PARTITION OF metering_00.planted DEFAULT",
    ):
        await connection.execute(statement)
    tables = ("billing_00.planted", "identity.planted", "metering_00.planted")
    for table in tables:
        rows = [("nothing",)] * 2_000 + [(f"it is {secret}.",)]
        await connection.executemany(f"INSERT INTO {table} VALUES ($1)", rows)  # noqa: S608 -- one of those above.
    await connection.close()

    await watch.scan_database(database_admin_url)

    assert sorted(watch.take_leaks()) == [
        f"the table {table}: granite otte…" for table in (*tables[:2], f"{tables[2]}_default")
    ]


def test_installation_logs_are_searched_for_the_secrets_in_its_files(tmp_path: Path) -> None:
    installation = Installation(tmp_path)
    installation.data.prepare()
    installation.up_log.write_text("ready")
    secrets = installation.secrets()
    assert len(secrets) == 1 + len(CONTEXTS) + len({"operator", "session", *SERVICE_NAMES})
    for number, secret in enumerate(secrets):
        (installation.data.logs / f"{number}.log").write_text(f"it is {secret}.")
    look_through_logs(installation)
    assert len(WATCH.take_leaks()) == len(secrets)


def test_leak_report_does_not_repeat_the_whole_secret() -> None:
    watch, secret = SecretWatch(), new_secret(live=True)
    watch.scan("a text", secret)
    assert secret not in "".join(watch.take_leaks())
