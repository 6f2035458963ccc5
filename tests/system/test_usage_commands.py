"""`tollhouse usage …`: corrections from the command line."""

from pathlib import Path

from libs.common.ids import new_id
from tests.system.commands import done, found, made, refused
from tests.system.installation import Installation, create_organization
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import model_pb2, usage_pb2, usage_pb2_grpc


async def test_usage_is_amended_voided_and_restored(installation: Installation) -> None:
    model = f"model-{new_id()}"
    async with installation.connection().open() as channels:
        organization_id = await create_organization(channels)
        request = usage_pb2.RecordUsageRequest(
            organization_id=organization_id,
            operation_id="call",
            model=model,
            tokens=model_pb2.TokenCounts(input=10),
            stated_amount=Amount(value="2", currency_code="USD"),
        )
        stub = usage_pb2_grpc.UsageServiceStub(channels.metering)
        await stub.RecordUsage(request)
        request.ClearField("stated_amount")
        request.operation_id = "waiting"
        await stub.RecordUsage(request)
    usage = (organization_id, "call")

    trial = done(installation, "usage", "amend", *usage, "--amount", "3:USD", "--validate-only")
    assert trial.splitlines()[4:] == [
        f"{'cost before':<24} 2 USD",
        f"{'cost after':<24} 3 USD",
        f"{'debited':<24} 1 USD",
    ]
    amended = made(
        installation,
        *("usage", "amend", *usage, "--tokens", "input=5", "--label", "team=a", "--quantity", "images=2"),
        *("--items", "3", "--occurred", "1h", "--amount", "1:USD", "--reason", "wrong", "--operation", "fix"),
    )
    assert amended["operation_id"] == "fix"
    assert "given back" in done(installation, "usage", "void", *usage)
    assert "debited" in done(installation, "usage", "restore", *usage)
    kinds = [one["kind"] for one in found(installation, "usage", "corrections", organization_id, "--usage", "call")]
    assert [kind.rpartition("_")[2] for kind in kinds] == ["RESTORE", "VOID", "AMEND"]
    (waiting,) = found(installation, "usage", "pending", "--organization", organization_id, "--model", model)
    assert waiting["usage_count"] == "1"
    for wrong in ((), ("--tokens", "input=-1"), ("--tokens", "inputs=1"), ("--label", "x")):
        refused(installation, 2, "usage", "amend", *usage, *wrong)


async def test_usage_is_exported_and_verified(installation: Installation, tmp_path: Path) -> None:
    async with installation.connection().open() as channels:
        organization_id = await create_organization(channels)
        request = usage_pb2.RecordUsageRequest(
            organization_id=organization_id,
            operation_id="call",
            model=f"model-{new_id()}",
            tokens=model_pb2.TokenCounts(input=10),
            stated_amount=Amount(value="2", currency_code="USD"),
        )
        await usage_pb2_grpc.UsageServiceStub(channels.metering).RecordUsage(request)
    file = ""
    for form in ("focus", "csv"):
        file = str(tmp_path / f"usage.{form}")
        asked = ("usage", "export", "--organization", organization_id, "--since", "1h", "--format", form, "--out", file)
        assert done(installation, *asked).startswith("1 rows in ")
        assert "is there already" in refused(installation, 2, *asked)
        verified = made(installation, "usage", "verify-export", file)
        assert (f"{verified['rows']}", f"{verified['difference_count']}") == ("1", "0")
        assert "1 rows, 0 charges compared" in done(installation, "usage", "verify-export", file, "--file-only")
    _damage(Path(file))
    finished = installation.command("usage", "verify-export", file)
    assert finished.returncode == 1
    assert finished.stdout.startswith("sha256 of the manifest is ")
    refused(installation, 2, "usage", "verify-export", str(tmp_path / "missing"))
    refused(installation, 2, "usage", "export", "--environment", "x", "--out", str(tmp_path / "x"))


def _damage(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"call", b"cell"))
