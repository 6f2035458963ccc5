"""Anything is killed under load: what the client said was done is charged once, and nothing else is."""

import asyncio
import os
import random
from contextlib import AsyncExitStack
from decimal import Decimal
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from libs.cli.terminal.connection import Channels
from libs.common.ids import new_id
from tests.client.journaled_load import COST, MODEL, REFUSABLE, RESULTS, Customer, Work, read_journal, run_load
from tests.support.forked import forked
from tests.support.kills import KILLS_AT_EACH_POINT
from tests.system.installation import Installation, create_organization_and_owner, running, until
from tests.system.test_crashes import kill
from tollhouse.billing.v1 import charge_pb2, charge_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.identity.v1 import api_key_pb2, api_key_pb2_grpc
from tollhouse.metering.v1 import charge_pb2 as metering_charge_pb2
from tollhouse.metering.v1 import charge_pb2_grpc as metering_charge_pb2_grpc
from tollhouse.metering.v1 import model_pb2, model_pb2_grpc

SEED = int(os.environ.get("TOLLHOUSE_TEST_SEED", "20261126"))
TARGETS = ("metering", "client", "identity", "billing", "client", "postgres")
PAUSE_S = (0.0, 0.4)
GOES_ON_WITHIN_S = 60
ENDS_WITHIN_S = 120


class _Load:
    """The process with the callers."""

    def __init__(self, work: Work, stack: AsyncExitStack) -> None:
        self._work = work
        self._stack = stack
        self._process: BaseProcess | None = None
        self._read = 0

    async def start(self) -> None:
        self._process = await self._stack.enter_async_context(forked(run_load, self._work))

    async def kill(self) -> None:
        await self._stack.aclose()

    async def goes_on(self) -> None:
        """Return when more calls have come to an end, so that what is killed next is in the middle of it."""
        self._read = self._work.journal.stat().st_size if self._work.journal.exists() else 0
        await until(self._has_ended_more, GOES_ON_WITHIN_S, "calls come to an end")

    async def ends(self) -> None:
        """Let it end by itself."""
        self._work.stop.touch()
        assert self._process is not None
        await asyncio.to_thread(self._process.join, ENDS_WITHIN_S)
        assert self._process.exitcode == 0

    async def _has_ended_more(self) -> bool:
        assert self._process is not None
        assert self._process.exitcode is None
        if not self._work.journal.exists():
            return False
        with self._work.journal.open() as journal:
            journal.seek(self._read)
            return any(line.partition(" ")[0] in RESULTS for line in journal)


@pytest.mark.timeout(200 + 60 * KILLS_AT_EACH_POINT)
async def test_what_the_client_said_was_done_is_charged_once_and_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    async with running(Installation(tmp_path, prepared=True)) as installation, AsyncExitStack() as stack:
        _set_environment(installation, monkeypatch)
        async with installation.connection().open() as channels:
            work = Work(tmp_path, await _customer(channels), await _customer(channels))
            await _prepare(channels, work.rich)
        load = _Load(work, stack)
        await load.start()
        for target in TARGETS * KILLS_AT_EACH_POINT:
            await load.goes_on()
            await asyncio.sleep(chance.uniform(*PAUSE_S))
            if target == "client":
                await load.kill()
                await load.start()
            else:
                await kill(installation, target)
        await load.goes_on()
        await load.ends()
        words = read_journal(work.journal)
        assert set(words.values()) == {"done", "refused"}
        async with installation.connection().open() as channels:
            await _all_charged(channels)
            charged = await _charges(channels, {work.rich.organization_id, work.poor.organization_id})
        done = {operation for operation, word in words.items() if word == "done"}
        assert {operation for operation, _ in charged} == done
        assert len(charged) == len(done)
        assert {value for _, value in charged} == {Decimal(COST)}
        # Every kind of call was made, and those were refused that nobody pays for.
        assert {"usage", "recorded", *REFUSABLE} == {operation.split("-")[1] for operation in done}
        refused = {tuple(operation.split("-")[:2]) for operation, word in words.items() if word == "refused"}
        assert refused == {("poor", kind) for kind in REFUSABLE}
        verdict = installation.verify()
        assert verdict["violations"] == 0, verdict["findings"]


def _set_environment(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients find the services and their credentials."""
    for name, address in installation.endpoints().items():
        monkeypatch.setenv(f"TOLLHOUSE_{name.upper()}_ADDRESS", address)
    monkeypatch.setenv("TOLLHOUSE_TOKEN", str(installation.ready()["operator_token"]))


async def _customer(channels: Channels) -> Customer:
    organization_id, owner_id = await create_organization_and_owner(channels)
    request = api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, user_id=owner_id)
    created = await api_key_pb2_grpc.ApiKeyServiceStub(channels.identity).CreateApiKey(request)
    return Customer(organization_id, created.secret)


async def _prepare(channels: Channels, customer: Customer) -> None:
    models = model_pb2_grpc.ModelServiceStub(channels.metering)
    await models.CreateModel(model_pb2.CreateModelRequest(request_id=new_id(), model_id=MODEL))
    prices = model_pb2.TokenPrices(input="2.5", output="10")
    request = model_pb2.SetPriceRequest(request_id=new_id(), model_id=MODEL, currency_code="USD", prices=prices)
    request.effective_time.seconds = 1
    await models.SetPrice(request)
    amount = Amount(currency_code="USD", value="1000000")
    credit = ledger_pb2.CreditRequest(organization_id=customer.organization_id, operation_id="funds", amount=amount)
    await ledger_pb2_grpc.LedgerServiceStub(channels.billing).Credit(credit)


async def _all_charged(channels: Channels) -> None:
    """Return when billing has confirmed every charge of metering, which records usage while billing is away, too."""
    charges = metering_charge_pb2_grpc.ChargeServiceStub(channels.metering)

    async def nothing_waits() -> bool:
        request = metering_charge_pb2.ListPendingChargesRequest(page_size=1)
        return not (await charges.ListPendingCharges(request)).pending_charges

    await until(nothing_waits, GOES_ON_WITHIN_S, "every charge is confirmed")


async def _charges(channels: Channels, organization_ids: set[str]) -> list[tuple[str, Decimal]]:
    """Every charge of these organizations, by operation."""
    charges = charge_pb2_grpc.ChargeServiceStub(channels.billing)
    request = charge_pb2.ListChargesRequest(page_size=10_000)
    found: list[tuple[str, Decimal]] = []
    while True:
        page = await charges.ListCharges(request)
        found += [
            (charge.operation_id, Decimal(charge.amount.value))
            for charge in page.charges
            if charge.organization_id in organization_ids
        ]
        request.page_token = page.next_page_token
        if not request.page_token:
            return found
