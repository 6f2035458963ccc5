"""The lock files that a clone installs from, and the contents of a wheel."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.contract.sources import ROOT, sources

PACKAGES = ("libs", "services", "protos/tollhouse", "protos/buf", "protos/envoy")
OUR_PACKAGES = {"benchmarks", "buf", "envoy", "libs", "scripts", "services", "tests", "tollhouse"}
CARRIED_SUFFIXES = {".lua", ".py", ".pyi", ".proto", ".typed", ".mako", ".sql", ".json", ".yaml"}
NPM_LOCKS = ("package-lock.json", "examples/node/package-lock.json")


@pytest.mark.parametrize(
    "name", ["requirements.lock", "requirements-envoy.lock", "requirements-openapi.lock", *NPM_LOCKS]
)
def test_lock_files_name_no_address(name: str) -> None:
    # npm notes where one can give money to a package's authors.
    text = re.sub(r'"url": "\S+"', "", (ROOT / name).read_text(encoding="utf-8"))
    assert re.findall(r"\w+://|--(?:index|extra-index|find-links|trusted-host)\S*|\"resolved\"", text) == []


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-envoy.lock", "requirements-openapi.lock"])
def test_every_locked_requirement_is_exact_and_hashed(name: str) -> None:
    lock = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    loose = [line for line in lock.splitlines() if line and not re.match(r"^[a-z0-9-]+==\S+ .*--hash=sha256:", line)]
    assert loose == []


@pytest.mark.parametrize("name", NPM_LOCKS)
def test_every_package_of_the_npm_lock_is_hashed(name: str) -> None:
    packages = json.loads((ROOT / name).read_text(encoding="utf-8"))["packages"]
    assert [path for path, package in packages.items() if path and "integrity" not in package] == []


def test_every_declared_requirement_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.split(r"[\[<>=~! ]", requirement)[0].lower() for requirement in declared}
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE))
    assert names - locked == set()


def test_proxy_of_the_tests_is_locked_by_itself() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    locked = re.findall(r"^(\S+==\S+)", (ROOT / "requirements-envoy.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert locked == groups["envoy"]


@pytest.mark.parametrize(
    ("folders", "extras"), [(("libs", "services"), ()), (("scripts", "tests", "benchmarks"), ("dev",))]
)
def test_every_imported_distribution_is_declared(folders: tuple[str, ...], extras: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [
        *project["dependencies"],
        *(line for extra in extras for line in project["optional-dependencies"][extra]),
    ]
    names = {re.split(r"[\[<>=~! ]", requirement)[0].lower() for requirement in declared}
    providers = packages_distributions()
    undeclared = {
        f"{source.name}: {name}"
        for source in sources(*folders)
        for _, module in source.imports()
        if (name := module.partition(".")[0]) in providers
        and not {distribution.lower().replace("_", "-") for distribution in providers[name]} & names
        and name not in OUR_PACKAGES
    }
    assert sorted(undeclared) == []


def test_wheel_carries_every_package_stub_proto_and_migration(tmp_path: Path) -> None:
    copy = tmp_path / "clone"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "-w",
        str(tmp_path),
    ]
    built = subprocess.run([*command, str(copy)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(tmp_path.glob("tollhouse-*.whl"))) as wheel:
        carried = set(wheel.namelist())
    assert _expected_files() - carried == set()


def _expected_files() -> set[str]:
    files = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in CARRIED_SUFFIXES}
    return {path.relative_to(ROOT).as_posix().removeprefix("protos/") for path in files}
