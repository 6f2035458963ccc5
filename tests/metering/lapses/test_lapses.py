"""Authorized calls whose settlement never comes: what is charged for them, once, and what is not.

The calls are authorized for 1,000 input tokens, which cost 0.0025 dollars, and 1,000 output tokens.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from libs.common.ids import new_id
from libs.common.status import error_info
from services.metering.admission.domain import Allowance, Ask, Pinned, Stored
from services.metering.admission.lapse import Lapsed, Later, Over, Verdict, verdict
from services.metering.admission.lapses import RECORDED, RELEASED
from services.metering.admission.policy import Entry, LapseCharge, Policy
from tests.metering.lapses.support import (
    INPUT_COST,
    LONG,
    Worker,
    billing_answers,
    checks,
    lapsed,
    recorded_count,
)
from tests.metering.limits.support_subscriptions import subscribe
from tests.metering.policy_calls import RELEASE, cap, charge_input, open_ask, updated
from tests.metering.support import Metering, Platform, eventually, refused, settlement, stamp, usage
from tests.metering.test_authorizations import cancel, states
from tests.metering.test_batch_admission import ask, ends, held_amount, settled_ends
from tests.support.clock import ShiftedClock
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.metering.v1 import admission_pb2, model_pb2, unit_pb2, usage_pb2

END = datetime(2026, 3, 15, 12, tzinfo=UTC)
INPUT_POLICY = Policy(lapse_charge=LapseCharge.INPUT, lapse_after=timedelta(minutes=5))
STORED = Stored(
    Pinned(Ask("o", "call-1", None, None, None, None, "m", None, 1, 1, 1000), b"", "v", "USD", Decimal(1), END),
    cancelled=False,
    settled=False,
    expire_time=END,
    declined=False,
    recorded_when_lapsed=False,
    allowance=Allowance(1, 1, {}, Decimal(1)),
)
LAPSED = (grpc.StatusCode.FAILED_PRECONDITION, "AUTHORIZATION_LAPSED")


async def test_input_of_a_call_that_lapsed_is_charged_once_as_partial_usage(
    platform: Platform, metering: Metering, charging: str, looking: Worker
) -> None:
    user_id, project_id, api_key_id = new_id(), new_id(), new_id()
    request = ask(charging, "call-1", endpoint="/v1/chat")
    request.principal.user_id, request.principal.project_id, request.principal.api_key_id = (
        user_id,
        project_id,
        api_key_id,
    )
    subscription_id = (await subscribe(platform, charging, user_id=user_id, model="gpt-4o")).subscription_id
    allowed = await metering.authorize(request)
    (authorization,) = await metering.authorizations(charging)

    await looking.look_later()
    await looking.look_later()
    await looking.look_after_a_lease()
    await platform.settled()

    recorded = await metering.get(charging, "call-1")
    assert recorded.partial
    assert recorded.tokens == model_pb2.TokenCounts(input=1000)
    assert (recorded.cost.value, recorded.settlement) == ("0.0025", usage_pb2.SETTLEMENT_SETTLED)
    assert (recorded.price_version_id, recorded.endpoint) == (allowed.price_version_id, "/v1/chat")
    assert (recorded.user_id, recorded.project_id, recorded.api_key_id) == (user_id, project_id, api_key_id)
    assert recorded.subscription_id == subscription_id
    assert recorded.occur_time == authorization.create_time
    assert await platform.posted(charging) == 1 - INPUT_COST
    assert await held_amount(platform, charging) == "0"
    (listed,) = await metering.authorizations(charging)
    assert (states([listed]), listed.recorded_when_lapsed) == ({"call-1": "LAPSED"}, True)
    assert looking.lapses.counts == {RECORDED: 1, RELEASED: 0}
    assert await checks(platform) == []
    assert await metering.charges() == await platform.billing_charges() == {(charging, "call-1"): INPUT_COST}
    assert await metering.findings() == []


async def test_settlement_after_the_lapse_is_refused_by_name_and_changes_nothing(
    platform: Platform, metering: Metering, charging: str, looking: Worker
) -> None:
    await metering.authorize(ask(charging, "call-1"))
    await metering.authorize(ask(charging, "call-2"))
    await metering.settle(settlement(charging, "call-2"))
    await looking.look_later()
    recorded = await metering.get(charging, "call-1")

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await metering.settle(settlement(charging, "call-1"))
    info = error_info(error.value)
    batch = await metering.settle_batch(
        [settlement(charging, "call-1"), settlement(charging, "call-2"), settlement(charging, "call-1", model="other")]
    )

    assert info is not None
    assert (error.value.code(), info.reason) == LAPSED
    told = dict(info.metadata)
    assert told.pop("record_time").startswith("20")
    assert told == {
        "operation_id": "call-1",
        "usage_id": recorded.usage_id,
        "amount": "0.0025",
        "currency_code": "USD",
    }
    assert settled_ends(batch) == ["AUTHORIZATION_LAPSED", "SETTLED again", "AUTHORIZATION_LAPSED"]
    assert await refused(metering.record(usage(charging, "call-1"))) == LAPSED
    assert ends(await metering.authorize_batch([ask(charging, "call-1")])) == ["AUTHORIZATION_ENDED"]
    assert (await refused(metering.extend(charging, "call-1", stamp(hours=1))))[1] == "AUTHORIZATION_NOT_OPEN"
    assert (await refused(cancel(metering, charging, "call-1")))[1] == "ALREADY_SETTLED"
    assert await metering.get(charging, "call-1") == recorded
    assert await platform.posted(charging) == 1 - INPUT_COST - Decimal("0.0035")


async def test_lists_by_state_tell_what_lapsed_whether_it_was_recorded_or_not(
    platform: Platform, metering: Metering, charging: str, looking: Worker
) -> None:
    await metering.authorize_batch([ask(charging, "settled"), ask(charging, "recorded")])
    await metering.settle(settlement(charging, "settled"))
    await looking.look_later()
    await metering.authorize(ask(charging, "waiting", hold_ttl=Duration(seconds=1)))
    await asyncio.sleep(1.1)

    for state, names in (("LAPSED", {"recorded", "waiting"}), ("SETTLED", {"settled"}), ("OPEN", set())):
        number = admission_pb2.AuthorizationState.Value(f"AUTHORIZATION_STATE_{state}")
        assert set(states(await metering.authorizations(charging, state=number))) == names
    assert await lapsed(metering, charging) == {"recorded"}


async def test_without_the_policy_nothing_is_charged_noted_or_walked_through(
    platform: Platform, metering: Metering, organization_id: str, looking: Worker
) -> None:
    await platform.fund(organization_id, "1")
    await cap(metering, organization_id, 500)
    await metering.authorize_batch([ask(organization_id, f"call-{number}") for number in range(20)])

    for _ in range(3):
        await looking.look_later()
        assert await checks(platform) == []
    assert await platform.value("SELECT count(*) FROM metering.lapse_walks") == 0
    assert await recorded_count(platform) == 0
    assert set(states(await metering.authorizations(organization_id)).values()) == {"LAPSED"}
    assert await platform.posted(organization_id) == 1
    assert await held_amount(platform, organization_id) == "0"


async def test_what_was_settled_cancelled_declined_a_test_or_has_no_input_is_not_charged(
    platform: Platform, metering: Metering, looking: Worker
) -> None:
    identity = await platform.start_identity()
    organization_id, owner = await identity.create_organization()
    await platform.fund(organization_id, "0.06")
    await charge_input(metering, organization_id)
    key = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(
            organization_id=organization_id, user_id=owner, environment=api_key_pb2.API_KEY_ENVIRONMENT_TEST
        )
    )
    test_call = admission_pb2.AuthorizeRequest(
        operation_id="test", api_key=key.secret, model="gpt-4o", input_tokens=1000
    )
    no_input = ask(organization_id, "no-input")
    no_input.input_tokens = 0
    outcomes = await metering.authorize_batch(
        [
            *(ask(organization_id, name) for name in ("settled", "cancelled")),
            ask(organization_id, "declined", input_tokens=1_000_000),
            no_input,
            test_call,
        ]
    )
    assert ends(outcomes) == ["ALLOWED", "ALLOWED", "INSUFFICIENT_BALANCE", "ALLOWED", "ALLOWED"]
    await metering.settle(settlement(organization_id, "settled"))
    await cancel(metering, organization_id, "cancelled")

    await looking.look_later()

    assert await lapsed(metering, organization_id) == set()
    assert await recorded_count(platform) == 1
    assert await checks(platform) == []
    assert looking.lapses.counts == {RECORDED: 0, RELEASED: 1}
    assert await platform.verify() == []


async def test_call_that_was_never_allowed_is_not_charged(
    platform: Platform, metering: Metering, charging: str, looking: Worker
) -> None:
    await platform.stop_billing()
    assert (await refused(metering.authorize(ask(charging, "call-1"))))[0] is grpc.StatusCode.UNAVAILABLE
    await platform.start_billing()
    await eventually(lambda: billing_answers(platform, charging), bool)

    await looking.look_later()

    assert await recorded_count(platform) == 0
    assert await checks(platform) == []
    assert await platform.posted(charging) == 1


async def test_lapse_comes_so_long_after_the_end_of_the_hold_as_the_policy_says(
    platform: Platform, metering: Metering, organization_id: str, looking: Worker
) -> None:
    await platform.fund(organization_id, "1")
    await charge_input(metering, organization_id, lapse_after_s=1200)
    await metering.authorize(ask(organization_id, "call-1"))

    await looking.look_later(timedelta(seconds=1790))
    assert await lapsed(metering, organization_id) == set()
    settled = await metering.authorize(ask(organization_id, "call-2"))
    assert settled.decision == admission_pb2.DECISION_ALLOWED
    await looking.look_later(timedelta(seconds=15))

    assert await lapsed(metering, organization_id) == {"call-1"}
    await metering.settle(settlement(organization_id, "call-2"))
    await platform.settled()
    assert await platform.posted(organization_id) == 1 - INPUT_COST - Decimal("0.0035")


async def test_extended_call_lapses_at_its_later_end_with_its_larger_input(
    platform: Platform, metering: Metering, charging: str, looking: Worker, clock: ShiftedClock
) -> None:
    await metering.authorize(ask(charging, "call-1"))
    await metering.extend(charging, "call-1", stamp(clock, seconds=1500), input_tokens=3000)

    await looking.look_later()
    assert (await lapsed(metering, charging), await checks(platform)) == (set(), ["call-1"])
    await metering.extend(charging, "call-1", stamp(clock, seconds=1500))
    await looking.look_later(timedelta(seconds=1000))
    assert await lapsed(metering, charging) == set()
    await looking.look_later()

    assert await lapsed(metering, charging) == {"call-1"}
    assert (await metering.get(charging, "call-1")).tokens == model_pb2.TokenCounts(input=3000)
    await platform.settled()
    assert await metering.findings() == []


async def test_input_is_charged_at_the_price_of_the_authorization_with_the_units_of_the_input(
    platform: Platform, metering: Metering, charging: str, looking: Worker
) -> None:
    await metering.add_model("reader")
    request = model_pb2.SetPriceRequest(request_id=new_id(), model_id="reader", currency_code="USD")
    for unit, price in (("input_tokens", "0.000002"), ("output_tokens", "0.00001"), ("document_tokens", "0.000003")):
        request.rate_card.rates.add(unit=unit, price=price, per=1)
    request.rate_card.rates.add(unit="web_searches", price="0.01", per=1)
    await metering.models.SetPrice(request, metadata=metering.operator)
    quantities = [
        unit_pb2.Quantity(unit="document_tokens", value="500"),
        unit_pb2.Quantity(unit="web_searches", value="2"),
    ]
    estimate = admission_pb2.AuthorizeRequest(
        operation_id="call-1",
        principal=admission_pb2.Principal(organization_id=charging),
        model="reader",
        estimate=model_pb2.TokenCounts(input=1000, output=100),
        quantities=quantities,
    )
    await metering.authorize(estimate)
    await metering.set_price("reader", price_in="900", price_out="900", effective_time=stamp())

    await looking.look_later()

    recorded = await metering.get(charging, "call-1")
    assert recorded.cost.value == "0.0035"
    assert recorded.tokens.input == 1000
    assert {one.unit: one.value for one in recorded.quantities if one.value != "0"}["document_tokens"] == "500"
    assert "web_searches" not in {one.unit for one in recorded.quantities}
    await platform.settled()
    assert await metering.findings() == []


async def test_call_that_costs_nothing_is_recorded_and_not_charged(
    platform: Platform, metering: Metering, charging: str, looking: Worker
) -> None:
    await metering.set_price(price_in="0", price_out="0", organization_id=charging)
    await metering.authorize(open_ask(charging, "call-1"))

    await looking.look_later()

    assert await lapsed(metering, charging) == {"call-1"}
    assert (await metering.get(charging, "call-1")).cost.value == "0"
    assert await platform.billing_charges() == {}


async def test_what_is_charged_follows_the_policy_at_the_time_of_the_lapse(
    platform: Platform, metering: Metering, organization_id: str, looking: Worker, clock: ShiftedClock
) -> None:
    await platform.fund(organization_id, "1")
    await metering.authorize(ask(organization_id, "before"))
    clock.advance(LONG)
    await metering.authorize(ask(organization_id, "after"))
    await charge_input(metering, organization_id)
    await looking.look_later()
    assert await lapsed(metering, organization_id) == {"after"}

    await metering.authorize(ask(organization_id, "given-up"))
    await metering.extend(organization_id, "given-up", stamp(clock, seconds=700))
    await updated(metering, organization_id, lapse_charge=RELEASE)
    await looking.look_later(2 * LONG)
    assert await checks(platform) == []
    await charge_input(metering, organization_id)
    await looking.look_later()

    assert await lapsed(metering, organization_id) == {"after"}
    assert await platform.posted(organization_id) == 1 - INPUT_COST
    await platform.settled()
    assert await metering.findings() == []


@pytest.mark.parametrize(
    ("seconds", "charge", "judged"),
    [
        (-0.000001, INPUT_POLICY, Later(END + timedelta(minutes=5))),
        (0, INPUT_POLICY, Lapsed(LapseCharge.INPUT)),
        (0, Policy(lapse_after=timedelta(minutes=5)), Lapsed(LapseCharge.RELEASE)),
        (-0.000001, Policy(lapse_after=timedelta(minutes=5)), Later(END + timedelta(minutes=5))),
        (0, None, Later(END + timedelta(hours=1))),
        (3300, None, Lapsed(LapseCharge.RELEASE)),
    ],
)
def test_authorization_lapses_at_the_moment_its_policy_says(
    seconds: float, charge: Policy | None, judged: Verdict
) -> None:
    began = END - timedelta(days=1)
    entry = None if charge is None else Entry(charge, 1, began, began)
    now = END + timedelta(minutes=5, seconds=seconds)

    assert verdict(STORED, entry, END, now) == judged
    assert verdict(STORED._replace(settled=True), entry, END, now) == Over()
    assert verdict(STORED._replace(cancelled=True), entry, END, now) == Over()
    assert verdict(STORED._replace(declined=True), entry, END, now) == Over()


def test_what_lapsed_before_its_organization_charged_for_lapses_is_not_charged() -> None:
    now = END + timedelta(days=2)
    for began, charge in ((0, LapseCharge.RELEASE), (-1, LapseCharge.INPUT)):
        since = END + timedelta(minutes=5, microseconds=began)
        assert verdict(STORED, Entry(INPUT_POLICY, 3, since, since), END, now) == Lapsed(charge)


async def test_check_finds_an_organization_whose_lapses_nobody_looks_for(
    platform: Platform, metering: Metering, charging: str
) -> None:
    assert await metering.findings() == []
    await platform.execute("DELETE FROM metering.lapse_walks")

    (finding,) = await metering.findings()

    assert finding == f"lapses_are_looked_for policies/{charging}: nobody looks for its lapses"
