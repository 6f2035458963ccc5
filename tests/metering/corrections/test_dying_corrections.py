"""A correction that dies before its commit has changed nothing, and the relay completes one that dies after it."""

from collections.abc import Awaitable, Callable
from decimal import Decimal

import grpc
import pytest

from services.metering.usage.charging import Charging
from services.metering.usage.correction import counter_changes
from tests.metering.corrections.calls import amend, charged, found, tokens, void
from tests.metering.support import Metering, Platform, refused, usage

pytestmark = pytest.mark.own_database


class Died(Exception):
    """The process was killed, as far as its transaction can tell."""


def dying(call: Callable[..., Awaitable[object]], *, first: bool) -> Callable[..., Awaitable[object]]:
    async def die(*arguments: object, **options: object) -> object:
        if not first:
            await call(*arguments, **options)
        raise Died

    return die


@pytest.mark.parametrize("first", [True, False], ids=["before the counters", "before the commit"])
async def test_nothing_is_changed_before_the_commit(
    platform: Platform, metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    await metering.record(usage(organization_id, "call"))
    with monkeypatch.context() as patch:
        patch.setattr(counter_changes, "change_counters", dying(counter_changes.change_counters, first=first))
        code, _ = await refused(void(metering, organization_id, "call", "void"))
    assert code is grpc.StatusCode.INTERNAL
    assert not (await found(metering, organization_id, "call")).corrections
    assert await metering.findings() == []
    assert not (await void(metering, organization_id, "call", "void")).replayed
    assert await charged(platform, organization_id) == 0


async def test_the_relay_makes_the_movements_of_a_process_that_died_after_the_commit(
    platform: Platform, metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await metering.record(usage(organization_id, "call"))
    with monkeypatch.context() as patch:
        patch.setattr(Charging, "charge", dying(Charging.charge, first=True))
        answer = await amend(metering, organization_id, "call", "amend", tokens=tokens(3000, 100))
    assert not answer.HasField("balance")
    assert (await amend(metering, organization_id, "call", "amend", tokens=tokens(3000, 100))).replayed
    await platform.settled()
    assert await charged(platform, organization_id) == Decimal("0.0085")


async def test_what_is_given_back_waits_for_the_charge_that_billing_does_not_have_yet(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.stop_billing()
    await metering.record(usage(organization_id, "call"))
    await void(metering, organization_id, "call")
    await platform.start_billing()
    await platform.settled()
    assert await charged(platform, organization_id) == 0
    assert await metering.findings() == []
