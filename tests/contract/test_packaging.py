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

PACKAGES = ("libs", "services", "protos/envoy")
CLIENT_PACKAGES = ("clients/python/tollhouse_client", "protos/tollhouse", "protos/buf")
OUR_PACKAGES = {"benchmarks", "buf", "envoy", "libs", "scripts", "services", "tests", "tollhouse", "tollhouse_client"}
OUR_DISTRIBUTIONS = {"tollhouse-client"}
CARRIED_SUFFIXES = {".lua", ".py", ".pyi", ".proto", ".typed", ".mako", ".sql", ".json", ".yaml"}
PYTHON_LOCKS = (
    "requirements.lock",
    "requirements-envoy.lock",
    "requirements-litellm.lock",
    "requirements-openapi.lock",
)
NPM_LOCKS = ("package-lock.json", "examples/node/package-lock.json")


@pytest.mark.parametrize("name", [*PYTHON_LOCKS, *NPM_LOCKS])
def test_lock_files_name_no_address(name: str) -> None:
    # npm notes where one can give money to a package's authors.
    text = re.sub(r'"url": "\S+"', "", (ROOT / name).read_text(encoding="utf-8"))
    assert re.findall(r"\w+://|--(?:index|extra-index|find-links|trusted-host)\S*|\"resolved\"", text) == []


@pytest.mark.parametrize("name", PYTHON_LOCKS)
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
    assert names - locked - OUR_DISTRIBUTIONS == set()


def test_client_and_server_have_one_version_and_the_same_bounds() -> None:
    server, client = (
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for folder in (".", "clients/python")
    )
    assert f"tollhouse-client=={client['version']}" in server["dependencies"]
    assert client["version"] == server["version"]
    shared = {*client["dependencies"], *client["optional-dependencies"]["signing"]}
    assert shared - set(server["dependencies"]) == set()


def test_proxy_of_the_tests_is_locked_by_itself() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    locked = re.findall(r"^(\S+==\S+)", (ROOT / "requirements-envoy.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert locked == groups["envoy"]


@pytest.mark.parametrize(
    ("project_folder", "folders", "extras"),
    [
        (".", ("libs", "services"), ()),
        (".", ("scripts", "tests", "benchmarks"), ("dev",)),
        ("clients/python", ("clients/python/tollhouse_client",), ("signing",)),
    ],
)
def test_every_imported_distribution_is_declared(
    project_folder: str, folders: tuple[str, ...], extras: tuple[str, ...]
) -> None:
    project = tomllib.loads((ROOT / project_folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
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
    carried = set(built_wheel(copy, tmp_path).namelist())
    assert _expected_files(PACKAGES) - carried == set()
    assert {name.partition("/")[0] for name in carried} & {"tollhouse", "buf", "tollhouse_client"} == set()


def test_wheel_of_the_client_carries_the_stubs_and_nothing_of_the_server(tmp_path: Path) -> None:
    carried = set(built_wheel(ROOT / "clients" / "python", tmp_path).namelist())
    assert _expected_files(CLIENT_PACKAGES) - carried == set()
    top = {name.partition("/")[0] for name in carried if ".dist-info/" not in name}
    assert top == {"tollhouse_client", "tollhouse", "buf"}


def built_wheel(project: Path, folder: Path) -> zipfile.ZipFile:
    """Build the wheel of a project without a network, and open it."""
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "-w", str(folder))
    command = [sys.executable, "-m", "pip", "wheel", *options, str(project)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(next(folder.glob("tollhouse*.whl")))


def _expected_files(packages: tuple[str, ...]) -> set[str]:
    files = {path for package in packages for path in (ROOT / package).rglob("*") if path.suffix in CARRIED_SUFFIXES}
    names = {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    return {name.removeprefix("protos/").removeprefix("clients/python/") for name in names}
