"""Services and the client are killed under load: what the client said was done is charged once, and nothing else is."""

import asyncio
import os
import random
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from libs.cli.terminal.connection import Channels
from libs.common.ids import new_id
from tests.client.journaled_load import MODEL, RESULTS, read_journal
from tests.system.installation import Installation, create_organization, end, running, until
from tests.system.test_crashes import kill
from tollhouse.billing.v1 import charge_pb2, charge_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import charge_pb2 as metering_charge_pb2
from tollhouse.metering.v1 import charge_pb2_grpc as metering_charge_pb2_grpc
from tollhouse.metering.v1 import model_pb2, model_pb2_grpc

SEED = int(os.environ.get("TOLLHOUSE_TEST_SEED", "20261126"))
TARGETS = ("metering", "client", "billing", "client")
PAUSE_S = (0.0, 0.4)
GOES_ON_WITHIN_S = 40
ENDS_WITHIN_S = 60
COST = Decimal("0.0035")


@pytest.mark.timeout(200)
async def test_what_the_client_said_was_done_is_charged_once_and_nothing_else_is(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    journal, stop = tmp_path / "journal", tmp_path / "stop"
    async with running(Installation(tmp_path, prepared=True)) as installation:
        async with installation.connection().open() as channels:
            rich, poor = await create_organization(channels), await create_organization(channels)
            await _prepare(channels, rich)
        arguments = (str(journal), str(stop), rich, poor)
        load = _start(installation, arguments)
        try:
            for target in TARGETS:
                await _under_way(journal)
                await asyncio.sleep(chance.uniform(*PAUSE_S))
                if target == "client":
                    end(load)
                    load = _start(installation, arguments)
                else:
                    await kill(installation, target)
                assert load.poll() is None, load.communicate()[1]
            await _under_way(journal)
            stop.touch()
            _, errors = await asyncio.to_thread(load.communicate, timeout=ENDS_WITHIN_S)
            assert load.returncode == 0, errors
        finally:
            end(load)
        words = read_journal(journal)
        assert set(words.values()) == {"done", "refused"}
        async with installation.connection().open() as channels:
            await _all_charged(channels)
            charged = await _charges(channels, {rich, poor})
        done = {operation for operation, word in words.items() if word == "done"}
        assert {operation for operation, _ in charged} == done
        assert len(charged) == len(done)
        assert {value for _, value in charged} == {COST}
        assert {operation.split("-")[0] for operation, word in words.items() if word == "refused"} == {"poor"}
        verdict = installation.verify()
        assert verdict["violations"] == 0, verdict["findings"]


async def _under_way(journal: Path) -> None:
    """Return when the client has brought more calls to an end, so that what is killed next is in the middle of it."""
    before = _ended(journal)

    async def goes_on() -> bool:
        return _ended(journal) > before

    await until(goes_on, GOES_ON_WITHIN_S, "calls come to an end")


def _ended(journal: Path) -> int:
    return sum(word in RESULTS for word in read_journal(journal).values())


async def _prepare(channels: Channels, organization_id: str) -> None:
    models = model_pb2_grpc.ModelServiceStub(channels.metering)
    await models.CreateModel(model_pb2.CreateModelRequest(request_id=new_id(), model_id=MODEL))
    prices = model_pb2.TokenPrices(input="2.5", output="10")
    request = model_pb2.SetPriceRequest(request_id=new_id(), model_id=MODEL, currency_code="USD", prices=prices)
    request.effective_time.seconds = 1
    await models.SetPrice(request)
    amount = Amount(currency_code="USD", value="1000000")
    credit = ledger_pb2.CreditRequest(organization_id=organization_id, operation_id="funds", amount=amount)
    await ledger_pb2_grpc.LedgerServiceStub(channels.billing).Credit(credit)


def _start(installation: Installation, arguments: tuple[str, ...]) -> subprocess.Popen[str]:
    endpoints = {f"TOLLHOUSE_{name.upper()}_ADDRESS": address for name, address in installation.endpoints().items()}
    token = str(installation.ready()["operator_token"])
    environment = {**os.environ, **endpoints, "TOLLHOUSE_TOKEN": token, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.client.journaled_load", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


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
