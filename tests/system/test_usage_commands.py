"""`tollhouse usage …`: corrections from the command line."""

import json

from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.ids import new_id
from tests.system.commands import done, found, made, refused
from tests.system.installation import Installation, create_organization
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import model_pb2, model_pb2_grpc, usage_pb2, usage_pb2_grpc


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


async def test_usage_is_rerated_after_a_preview(installation: Installation) -> None:
    model = f"model-{new_id()}"
    async with installation.connection().open() as channels:
        organization_id = await create_organization(channels)
        models = model_pb2_grpc.ModelServiceStub(channels.metering)
        await models.CreateModel(model_pb2.CreateModelRequest(request_id=new_id(), model_id=model, provider="x"))
        stub = usage_pb2_grpc.UsageServiceStub(channels.metering)
        for price in (1, 2):
            prices = model_pb2.TokenPrices(input=str(price), output="1")
            request = model_pb2.SetPriceRequest(
                request_id=new_id(),
                model_id=model,
                currency_code="USD",
                prices=prices,
                effective_time=Timestamp(seconds=price),
            )
            await models.SetPrice(request)
            if price == 1:
                used = usage_pb2.RecordUsageRequest(
                    organization_id=organization_id,
                    operation_id="call",
                    model=model,
                    tokens=model_pb2.TokenCounts(input=1_000_000),
                )
                await stub.RecordUsage(used)
    chosen = ("usage", "rerate", "--start", "1h", "--organization", organization_id, "--model", model)
    trial = json.loads(done(installation, *chosen, "--validate-only", "--json"))
    assert trial["differences"][0]["sums"]["amounts"][0]["after"]["value"] == "2"
    assert "1 USD" in done(installation, *chosen, "--validate-only")
    job = made(installation, *chosen, "--yes", "--reason", "dearer", "--operation", f"rerate-{new_id()}")
    assert job["state"] == "RERATE_JOB_STATE_DONE"
    assert job["sums"]["changed_count"] == "1"
    assert "DONE" in done(installation, "usage", "rerate", "--status", str(job["job_id"]))
    for verb in ("--pause", "--resume", "--cancel"):
        refused(installation, 1, "usage", "rerate", verb, str(job["job_id"]))
    refused(installation, 2, "usage", "rerate")
    refused(installation, 2, "usage", "rerate", "--pause", new_id(), "--cancel", new_id())
