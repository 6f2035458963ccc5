"""Hostile and honest callers share four processes of each service: the honest callers are not affected."""

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import grpc

from libs.common.ids import new_id
from tests.support.poison import plant_poison, poisoned
from tests.system.installation import Installation, create_organization, running
from tollhouse.billing.v1 import ledger_pb2, ledger_pb2_grpc
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import (
    admission_pb2,
    admission_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)

FOR_S = 4.0
HONEST = 8
HOSTILE = 2
ODD_TEXTS = ("nul \0", "quote ' \" ; --", "../../hostile/path", "h" * 100_000, "\u202e\u0000\ufffd")


class Caller:
    """One organization's gateway, with a channel of its own, so that the kernel assigns it to one of the processes."""

    def __init__(self, channel: grpc.aio.Channel, token: str, organization_id: str, *, hostile: bool) -> None:
        self.organization_id = organization_id
        self.ends: Counter[str] = Counter()
        self._hostile = hostile
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._usage = usage_pb2_grpc.UsageServiceStub(channel)
        self._admission = admission_pb2_grpc.AdmissionServiceStub(channel)

    async def call_until(self, end_s: float) -> None:
        while time.monotonic() < end_s:
            try:
                await random.choice((self._record, self._metered_call))()
                self.ends["OK"] += 1
            except grpc.aio.AioRpcError as error:
                self.ends[error.code().name] += 1

    def _operation_id(self) -> str:
        sqlstate = random.choice(("22021", "40P01", "XX000"))
        return poisoned(sqlstate, new_id()) if self._hostile and random.random() < 0.5 else new_id()

    async def _record(self) -> None:
        request = usage_pb2.RecordUsageRequest(
            organization_id=self.organization_id,
            operation_id=self._operation_id(),
            model="gpt-hostile",
            tokens=model_pb2.TokenCounts(input=10, output=10),
            error_message=random.choice(ODD_TEXTS) if self._hostile else "",
            labels={"odd": random.choice(ODD_TEXTS)} if self._hostile else {},
        )
        await self._usage.RecordUsage(request, metadata=self._metadata, timeout=20)

    async def _metered_call(self) -> None:
        operation_id = self._operation_id()
        principal = admission_pb2.Principal(organization_id=self.organization_id)
        ask = admission_pb2.AuthorizeRequest(
            operation_id=operation_id, principal=principal, model="gpt-hostile", input_tokens=10, max_output_tokens=10
        )
        if self._hostile:
            ask.endpoint = random.choice(ODD_TEXTS)
        answer = await self._admission.Authorize(ask, metadata=self._metadata, timeout=20)
        assert answer.decision == admission_pb2.DECISION_ALLOWED
        settle = admission_pb2.SettleRequest(
            organization_id=self.organization_id,
            operation_id=operation_id,
            model="gpt-hostile",
            tokens=model_pb2.TokenCounts(input=10, output=5),
        )
        await self._admission.Settle(settle, metadata=self._metadata, timeout=20)


async def test_honest_callers_are_not_affected_by_hostile_ones(tmp_path: Path) -> None:
    async with running(Installation(tmp_path, ["--workers", "4"], prepared=True)) as installation:
        ready = installation.ready()
        url, token = str(ready["database_url"]), str(ready["operator_token"])
        for table in ("metering.usage_operations", "metering.authorizations", "billing.transactions"):
            await plant_poison(url, table)
        channels = [_channel(installation) for _ in range(HONEST + HOSTILE)]
        async with installation.connection().open() as operator:
            organizations = [await create_organization(operator) for _ in channels]
        callers = [
            Caller(channel, token, organizations[place], hostile=place < HOSTILE)
            for place, channel in enumerate(channels)
        ]
        try:
            await _prepare(installation, token, callers)
            end_s = time.monotonic() + FOR_S
            # Each caller makes several calls at once, so that batches contain calls of different callers.
            await asyncio.gather(*(caller.call_until(end_s) for caller in callers for _ in range(6)))
        finally:
            for channel in channels:
                await channel.close()

        honest: Counter[str] = sum((caller.ends for caller in callers[HOSTILE:]), Counter())
        hostile: Counter[str] = sum((caller.ends for caller in callers[:HOSTILE]), Counter())
        assert set(honest) == {"OK"}, honest
        assert hostile["OK"] > 0
        assert len(hostile) > 1, "the poisoned calls should have failed"
        findings = installation.verify()["findings"]
        assert isinstance(findings, list)
        # Usage that billing cannot store waits in the outbox, and belongs to the hostile callers only.
        others = {caller.organization_id for caller in callers[HOSTILE:]}
        assert [finding for finding in findings if finding["organization_id"] in others] == []


def _channel(installation: Installation) -> grpc.aio.Channel:
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(installation.endpoints()["metering"], options=options)


async def _prepare(installation: Installation, token: str, callers: list[Caller]) -> None:
    """Make the model with its price, and give every organization money."""
    metadata = (("authorization", f"Bearer {token}"),)
    endpoints = installation.endpoints()
    async with (
        grpc.aio.insecure_channel(endpoints["metering"]) as metering,
        grpc.aio.insecure_channel(endpoints["billing"]) as billing,
    ):
        models = model_pb2_grpc.ModelServiceStub(metering)
        await models.CreateModel(
            model_pb2.CreateModelRequest(request_id="model", model_id="gpt-hostile", provider="tests"),
            metadata=metadata,
        )
        await models.SetPrice(
            model_pb2.SetPriceRequest(
                request_id="price",
                model_id="gpt-hostile",
                currency_code="USD",
                prices=model_pb2.TokenPrices(input="3", output="15"),
            ),
            metadata=metadata,
        )
        ledger = ledger_pb2_grpc.LedgerServiceStub(billing)
        for caller in callers:
            await ledger.Credit(
                ledger_pb2.CreditRequest(
                    organization_id=caller.organization_id,
                    operation_id="top-up",
                    amount=Amount(currency_code="USD", value="1000"),
                ),
                metadata=metadata,
            )
