"""`tollhouse retention …`: how long usage is kept, and what of it leaves."""

import json
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.ids import new_id
from tests.system.commands import done, found, made, refused
from tests.system.installation import Installation, create_organization
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import usage_pb2, usage_pb2_grpc


async def test_month_is_dropped_by_the_manifest_of_its_export(installation: Installation, tmp_path: Path) -> None:
    occur_time = Timestamp()
    occur_time.FromJsonString("2023-05-05T00:00:00Z")
    async with installation.connection().open() as channels:
        organization_id = await create_organization(channels)
        stub = usage_pb2_grpc.UsageServiceStub(channels.metering)
        await stub.RecordUsage(
            usage_pb2.RecordUsageRequest(
                organization_id=organization_id,
                operation_id="old",
                model="retired",
                occur_time=occur_time,
                backfill=True,
                stated_amount=Amount(value="2", currency_code="USD"),
                environment=usage_pb2.ENVIRONMENT_TEST,
            )
        )
    of = ("--organization", organization_id)
    assert str(made(installation, "retention", "show", *of)["months"]) == "0"
    assert str(made(installation, "retention", "set", "12", *of)["months"]) == "12"
    (month,) = found(installation, "retention", "months", *of)
    assert (month["month"], month["usage_count"], bool(month["expired"])) == ("2023-05", "1", True)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(done(installation, "retention", "digest", "2023-05", *of, "--json"), encoding="utf-8")
    assert json.loads(manifest.read_text())["totals"] == {"USD": "2"}
    assert "usage_count" in done(installation, "retention", "digest", "2023-05", *of)
    drop = ("retention", "drop", "2023-05", "--manifest", str(manifest), *of)
    made(installation, *drop, "--validate-only")
    assert made(installation, *drop, "--no-wait")["state"] == "USAGE_DROP_STATE_SEALED"
    manifest.write_text("{}", encoding="utf-8")
    refused(installation, 2, *drop)
    user_id = new_id()
    assert made(installation, "retention", "forget-user", user_id)["done"]
    assert made(installation, "retention", "set", *of, "--inherit")["inherited"]
