"""An installation with certificates: all connections use mutual TLS, and the command has a certificate of its own."""

from pathlib import Path

import pytest

from libs.cli.installation.data_folder import CONTEXTS
from libs.cli.installation.health import is_serving
from libs.cli.traces.population import import_missing_models
from tests.common.test_mutual_tls import Authority
from tests.system.commands import done, found, made
from tests.system.installation import Installation, running
from tests.system.test_rest import operator_of
from tollhouse.metering.v1 import admission_pb2, admission_pb2_grpc


@pytest.fixture
def tls_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "tls"
    folder.mkdir()
    authority = Authority(folder, "ca")
    for name in (*CONTEXTS, "operator"):
        certificate, _ = authority.issue(name)
        certificate.rename(folder / f"{name}.pem")
    return folder


async def test_services_and_command_use_mutual_tls_only(tmp_path: Path, tls_dir: Path) -> None:
    async with running(Installation(tmp_path, ["--tls-dir", str(tls_dir), "--gateway"])) as installation:
        assert not any([await is_serving(target) for target in installation.endpoints().values()])
        created = made(installation, "organization", "create", "Acme", "--owner", "a@b.example", "--create-owner")
        organization_id = created["organization_id"]
        of_it = ("--organization", organization_id)
        secret = done(installation, "key", "create", "first", *of_it, "--user", "a@b.example", "-q").strip()
        # One call in which metering calls both other services.
        async with installation.connection().open() as channels:
            await import_missing_models(channels)
            request = admission_pb2.AuthorizeRequest(
                operation_id="over-tls", api_key=secret, model="gpt-4o", input_tokens=10, max_output_tokens=5
            )
            answer = await admission_pb2_grpc.AdmissionServiceStub(channels.metering).Authorize(request)
        assert answer.principal.organization_id == organization_id
        assert answer.denial.reason == admission_pb2.DENIAL_REASON_INSUFFICIENT_BALANCE
        assert [event["service"] for event in found(installation, "audit", "list", *of_it)] != []
        rest = operator_of(installation)
        for context in CONTEXTS:
            assert (
                await rest.call("GET", f"/v1/{context}/audit-events?organizationId={organization_id}")
            ).status == 200


def test_tls_folder_without_a_certificate_is_refused(tmp_path: Path, tls_dir: Path) -> None:
    (tls_dir / "billing.key").unlink()
    finished = Installation(tmp_path).command("up", "--data-dir", str(tmp_path / "data"), "--tls-dir", str(tls_dir))
    assert finished.returncode == 2
    assert "billing.key" in finished.stderr
    assert not (tmp_path / "data").exists()
