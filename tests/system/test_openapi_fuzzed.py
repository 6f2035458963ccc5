"""Whatever the REST gateway is sent, it answers as the OpenAPI document says, and the books stay right.

schemathesis makes the requests from the document: valid and invalid ones, and those that the pages show. It makes one
of each operation, or as many as TOLLHOUSE_TEST_REST_EXAMPLES says. From 20 on it also tries every constraint of the
document from both sides, which takes minutes, and chooses other requests in each run.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from libs.cli.installation.environment import repository
from scripts.openapi import DOCUMENT
from tests.contract.test_openapi import ENVIRONMENT
from tests.support.secrecy import WATCH
from tests.system.installation import Installation, create_organization_and_owner, running
from tollhouse.identity.v1 import session_pb2, session_pb2_grpc, user_pb2, user_pb2_grpc

pytestmark = pytest.mark.timeout(3_600)
EXAMPLES: Final = int(os.environ.get("TOLLHOUSE_TEST_REST_EXAMPLES", "1"))
THOROUGH: Final = EXAMPLES >= 20
_PASSWORD: Final = "seventy copper kettles"
_SETTINGS: Final = """\
[checks]
# What is empty is absent for protobuf, and the items of a batch are checked one by one.
negative_data_rejection.enabled = false
# Ids that do not exist, balances and etags are no part of the document.
positive_data_acceptance.enabled = false
# There is no path for them, which is 404 and not 405.
unsupported_method.enabled = false
allow_header_conformance.enabled = false
# A request with random ids does not tell whose they are.
object_level_authorization.enabled = false
use_after_free.enabled = false
ensure_resource_availability.enabled = false
missing_required_header.enabled = false

# Streams of changes have no end.
[[operations]]
include-path-regex = ":watch$"
enabled = false

# Streams have a JSON object on each line.
[[operations]]
include-path-regex = "({streams})$"
checks = {{ response_schema_conformance.enabled = false }}
"""


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    async with running(Installation(tmp_path_factory.mktemp("gateway"), ["--gateway"], prepared=True)) as installation:
        yield installation


@pytest.fixture(scope="module")
async def tenant(gateway: Installation) -> tuple[str, str]:
    """An organization and the access token of its owner."""
    async with gateway.connection().open() as channels:
        organization_id, user_id = await create_organization_and_owner(channels)
        users = user_pb2_grpc.UserServiceStub(channels.identity)
        user = (await users.GetUser(user_pb2.GetUserRequest(user_id=user_id))).user
        await users.SetPassword(user_pb2.SetPasswordRequest(user_id=user_id, new_password=_PASSWORD))
        request = session_pb2.SignInWithPasswordRequest(login=user.email, password=_PASSWORD)
        signed_in = await session_pb2_grpc.SessionServiceStub(channels.identity).SignInWithPassword(request)
    WATCH.note(signed_in.tokens.access_token)
    return organization_id, signed_in.tokens.access_token


def streams() -> list[str]:
    """The ends of the paths whose answer is a stream."""
    paths = json.loads(DOCUMENT.read_text(encoding="utf-8"))["paths"]
    found = [
        path.rpartition("/")[2]
        for path, verbs in paths.items()
        if any(each["responses"]["200"]["description"].startswith("A stream:") for each in verbs.values())
    ]
    assert len(found) > 3
    return found


async def fuzz(gateway: Installation, folder: Path, token: str | None, parameters: str = "") -> None:
    """Run schemathesis against the gateway, and fail with what it found."""
    settings = folder / "schemathesis.toml"
    settings.write_text(parameters + _SETTINGS.format(streams="|".join(streams())))
    phases = "examples,coverage,fuzzing" if THOROUGH else "examples,fuzzing"
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings), "run", str(DOCUMENT)),
        *("--url", str(gateway.ready()["gateway"]), "--phases", phases, "--max-examples", str(EXAMPLES)),
        *("--continue-on-failure", "--no-shrink", "--request-timeout", "60", "--warnings", "off"),
        *("--suppress-health-check", "all", "--generation-database", "none"),
        *(() if THOROUGH else ("--seed", "1")),
        *(("--header", f"Authorization: Bearer {token}") if token else ()),
    ]
    finished = await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=folder,
        # Hypothesis parses all modules for constants, unless it finds what it has kept of them.
        env=os.environ
        | {"PYTHONPATH": str(ENVIRONMENT), "HYPOTHESIS_STORAGE_DIRECTORY": str(repository() / ".hypothesis")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout[-20_000:] + finished.stderr[-2_000:]
    assert "Tested: " in finished.stdout
    assert "Errored: " not in finished.stdout


async def test_answers_to_an_operator_are_those_of_the_document(gateway: Installation, tmp_path: Path) -> None:
    await fuzz(gateway, tmp_path, str(gateway.ready()["operator_token"]))


@pytest.mark.thorough
async def test_answers_to_a_tenant_are_those_of_the_document(
    gateway: Installation, tenant: tuple[str, str], tmp_path: Path
) -> None:
    organization_id, token = tenant
    await fuzz(gateway, tmp_path, token, f'[parameters]\n"path.organizationId" = "{organization_id}"\n\n')


async def test_answers_without_credentials_are_those_of_the_document(gateway: Installation, tmp_path: Path) -> None:
    await fuzz(gateway, tmp_path, None)


async def test_books_are_right_after_all_of_it(gateway: Installation) -> None:
    checks = gateway.verify()["checks"]
    assert isinstance(checks, list)
    violated = {check["invariant"] for check in checks if check["violations"]}
    # An operator may give money to an organization that there is not, and some of the requests do.
    assert violated <= {"organizations_exist"}
