"""A charge that was given up is made by a process that stood still: what was given up with it gives it back."""

import asyncio
import os
import signal
from decimal import Decimal

import grpc
import pytest

from libs.common.ids import new_id
from tests.metering.corrections import sleeping_sender
from tests.metering.corrections.calls import amend, charged, found, void
from tests.metering.corrections.test_refused_charges import eur, nothing_waits, retry
from tests.metering.support import Metering, Platform, eventually, usage, usd
from tests.support.forked import forked
from tollhouse.billing.v1.account_pb2 import OpenAccountRequest
from tollhouse.metering.v1 import usage_pb2 as pb

_REFUSED = "SELECT count(*) FROM metering.outbox WHERE state = 'REFUSED'"
pytestmark = pytest.mark.own_database


@pytest.mark.parametrize(
    ("amended", "dies"), [(False, False), (True, True)], ids=["by a process that lives", "by one that dies then"]
)
async def test_charge_that_a_process_sends_after_it_was_given_up_is_given_back(
    platform: Platform, metering: Metering, organization_id: str, amended: bool, dies: bool
) -> None:
    await platform.fund(organization_id, "10")
    environment = platform.environment()
    async with (
        forked(sleeping_sender.run, environment, dies) as running,
        grpc.aio.insecure_channel(f"127.0.0.1:{environment['TOLLHOUSE_METERING_PORT']}") as channel,
    ):
        async with asyncio.timeout(30):
            await channel.channel_ready()
        sleeper = Metering(metering.service, channel, platform.callers)
        sent = asyncio.ensure_future(sleeper.record(usage(organization_id, "call", stated_amount=eur("1.5"))))
        # The other process takes the charge when its lease is over, and billing refuses it.
        await eventually(lambda: platform.value(_REFUSED), lambda count: count == 1)
        if amended:
            await amend(metering, organization_id, "call", stated_amount=usd("2"))
        else:
            await void(metering, organization_id, "call")
        account = OpenAccountRequest(request_id=new_id(), organization_id=organization_id, currency_code="EUR")
        await platform.ledger.accounts.OpenAccount(account, metadata=platform.ledger.metadata)
        assert running.pid is not None
        os.kill(running.pid, signal.SIGCONT)
        await asyncio.wait([sent], timeout=20)
        assert (sent.exception() is not None) is dies

        if dies:
            # Only who compares the charges can know. What was given up is sent again then.
            await platform.start_identity()
            assert [one for one in await platform.verify() if "call" in one]
            assert await retry(metering, organization_id, ["call"]) == 1
        # The charge, what gives it back, and what the amended usage costs.
        await eventually(platform.billing_charges, lambda made: len(made) == 2 + amended)

    await nothing_waits(metering, organization_id)
    assert await charged(platform, organization_id) == Decimal(2 * amended)
    assert (await found(metering, organization_id, "call")).usage.settlement == pb.SETTLEMENT_SETTLED
    assert await platform.billing_charges() == await metering.charges()
    assert await metering.findings() == []
