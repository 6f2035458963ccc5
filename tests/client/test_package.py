"""The wheel works in an environment with its three dependencies alone, and every example of its README runs there."""

import asyncio
import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from libs.cli.installation.environment import repository
from tests.client.conftest import House, addresses_of
from tests.client.test_meter import COST
from tests.contract.test_packaging import built_wheel

# The dependencies and theirs; the last three are what the extra `signing` brings.
DISTRIBUTIONS = (
    *("googleapis-common-protos", "grpcio", "protobuf", "typing-extensions"),
    *("cryptography", "cffi", "pycparser"),
)
RUN_WITHIN_S = 90
_README = (repository() / "clients/python/README.md").read_text(encoding="utf-8")
_EXAMPLES = re.findall(r"^```python\n(.*?)^```$", _README, re.MULTILINE | re.DOTALL)
SAID = [
    "charged: 0.0035",
    "1,000 input tokens and 50 output tokens are charged",
    "served: {organization_id}",
    "recorded",
    "decided here, and settled with the calls of others",
    "charged: 0.0035",
]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel, its dependencies, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    environment, python = folder / "environment", folder / "environment" / "bin" / "python"
    _run(sys.executable, "-m", "venv", "--without-pip", str(environment))
    packages = next(environment.glob("lib/python*/site-packages"))
    for name in DISTRIBUTIONS:
        _link(name, packages)
    wheel = built_wheel(repository() / "clients" / "python", folder).filename
    pip = (sys.executable, "-m", "pip", "--python", str(python))
    _run(*pip, "install", "--quiet", "--no-index", "--no-compile", f"{wheel}[signing]")
    _run(*pip, "check")
    return python


def _link(name: str, packages: Path) -> None:
    """Put a distribution of the running environment into another one, without a network and without copying."""
    for file in distribution(name).files or ():
        source = Path(str(file.locate()))
        if ".." not in file.parts and "__pycache__" not in file.parts and source.is_file():
            target = packages / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_environment_has_nothing_of_the_server(python: Path) -> None:
    names = ("libs", "services", "envoy", "sqlalchemy", "structlog")
    program = f"""
import importlib.util, tollhouse_client, tollhouse_client.sync
print([name for name in {names} if importlib.util.find_spec(name)])
"""
    done = subprocess.run([str(python), "-I", "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


async def test_every_example_runs_as_it_is_written(python: Path, house: House, tmp_path: Path) -> None:
    addresses = {f"TOLLHOUSE_{name.upper()}_ADDRESS": value for name, value in addresses_of(house.platform).items()}
    environment = {
        **addresses,
        "PATH": os.environ["PATH"],
        "TOLLHOUSE_SIGNING_KEY_FILE": str(house.signing_key_file),
        "END_USER_KEY": house.secret,
        "ORGANIZATION_ID": house.organization_id,
        "SPOOL": str(tmp_path / "spool"),
    }
    programs = [await _start(python, example, environment) for example in _EXAMPLES]
    said = []
    async with asyncio.timeout(RUN_WITHIN_S):
        for program in programs:
            output, errors = await program.communicate()
            assert (program.returncode, errors.decode()) == (0, "")
            said.append(output.decode().strip())
    assert said == [line.format(organization_id=house.organization_id) for line in SAID]
    charges = await house.charges()
    assert charges["import-2026-11-26-1"] == COST
    assert len(charges) == len(_EXAMPLES)


async def _start(python: Path, program: str, environment: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(str(python), "-I", "-c", program),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
