"""The container files agree with the code they start. No container engine is needed to run these."""

import importlib
import os
import re
import subprocess
from pathlib import Path
from typing import TypedDict

import asyncpg
import pytest
import yaml

from libs.common.database_url import with_database, with_role
from libs.common.databases import drop_database
from libs.common.migrate import CONTEXTS, migrate
from libs.common.postgres import find_binaries
from libs.common.settings import ServiceSettings, variable_name
from tests.contract.sources import ROOT
from tests.support.database import TestPostgres, new_database_name


class _Container(TypedDict, total=False):
    environment: dict[str, str]
    command: list[str]
    read_only: bool
    cap_drop: list[str]
    healthcheck: dict[str, object]


def _containers() -> dict[str, _Container]:
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    containers: dict[str, _Container] = composed["services"]
    return containers


@pytest.mark.parametrize("context", CONTEXTS)
def test_each_container_sets_variables_its_service_reads(context: str) -> None:
    settings = _settings(context)
    known = {variable_name(settings, field) for field in settings.model_fields}
    needed = {variable_name(settings, name) for name, field in settings.model_fields.items() if field.is_required()}
    given = set(_containers()[context]["environment"])
    assert (given - known, needed - given) == (set(), set())


def test_all_containers_that_know_shards_are_told_the_same_number() -> None:
    told = {name: container.get("environment", {}).get("TOLLHOUSE_SHARDS") for name, container in _containers().items()}
    assert {name: number for name, number in told.items() if number is not None} == dict.fromkeys(
        ("migrate", "billing", "metering"), "${TOLLHOUSE_SHARDS:-1}"
    )


@pytest.mark.parametrize("context", CONTEXTS)
def test_each_container_runs_hardened_with_a_health_check(context: str) -> None:
    container = _containers()[context]
    assert container["command"] == ["serve", context]
    assert container["read_only"]
    assert container["cap_drop"] == ["ALL"]
    assert container["healthcheck"]


def test_image_runs_as_an_ordinary_user_from_an_exact_lock() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER 10001:10001"
    assert any("--require-hashes" in line for line in lines)


def test_lock_of_the_image_is_a_part_of_the_lock() -> None:
    image, whole = (_pins(ROOT / name) for name in ("deploy/requirements.lock", "requirements.lock"))
    assert {name: pin for name, pin in image.items() if whole.get(name) != pin} == {}
    assert "pytest" not in image


def test_example_environment_names_every_password_of_the_compose_file() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    named = set(re.findall(r"^(\w+)=", (ROOT / "deploy" / "example.env").read_text(encoding="utf-8"), re.MULTILINE))
    assert asked == named


async def test_owner_without_superuser_rights_can_migrate_what_roles_sql_prepared(postgres: TestPostgres) -> None:
    database, password = new_database_name(), postgres.password or "secret"
    passwords = {f"TOLLHOUSE_{name}_PASSWORD": password for name in ("OWNER", "IDENTITY", "BILLING", "METERING")}
    _psql(postgres.admin_url, Path("deploy/roles.sql"), {"TOLLHOUSE_DATABASE": database, **passwords})
    owner_url = with_role(with_database(postgres.admin_url, database), "tollhouse_owner", password)
    await migrate(CONTEXTS, owner_url, shards=2)
    connection = await asyncpg.connect(with_role(owner_url, "tollhouse_billing", password))
    try:
        assert await connection.fetchval("SELECT count(*) FROM billing_00.accounts") == 0
        assert await connection.fetchval("SELECT count(*) FROM billing_01.accounts") == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetchval("SELECT count(*) FROM identity.users")
    finally:
        await connection.close()
        await drop_database(postgres.admin_url, database)


def _psql(url: str, script: Path, variables: dict[str, str]) -> None:
    command = [str(find_binaries().folder / "psql"), "--no-psqlrc", "--file", str(ROOT / script), url]
    finished = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def _settings(context: str) -> type[ServiceSettings]:
    found: type[ServiceSettings] = getattr(
        importlib.import_module(f"services.{context}.settings"), f"{context.capitalize()}Settings"
    )
    return found


def _pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE))
