"""What becomes of authorizations: their state, their list, and that they can be extended."""

import asyncio
from datetime import timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from libs.common.ids import new_id
from services.billing.ledger.expiries import EXPIRED_HOLDS
from tests.metering.support import Metering, Platform, eventually, refused, settlement, stamp
from tests.metering.test_batch_admission import ask, ends, held_amount
from tollhouse.billing.v1 import ledger_pb2
from tollhouse.metering.v1 import admission_pb2, model_pb2, usage_pb2

SECOND = Duration(seconds=1)


def states(authorizations: list[admission_pb2.Authorization]) -> dict[str, str]:
    return {
        one.operation_id: admission_pb2.AuthorizationState.Name(one.state).removeprefix("AUTHORIZATION_STATE_")
        for one in authorizations
    }


async def cancel(metering: Metering, organization_id: str, operation_id: str) -> None:
    request = admission_pb2.CancelRequest(organization_id=organization_id, operation_id=operation_id)
    await metering.admission.Cancel(request, metadata=metering.gateway)


async def lapse(platform: Platform, metering: Metering, organization_id: str) -> None:
    """Wait until the holds of one second have ended."""
    await eventually(lambda: held_amount(platform, organization_id), lambda amount: amount == "0")
    await asyncio.sleep(0.05)


async def test_list_tells_what_became_of_each_authorization(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "0.07")
    await metering.set_price("gpt-4o", price_in="0", price_out="0", organization_id=(free := new_id()))
    names = ("settled", "cancelled", "lapsed", "late")
    await metering.authorize_batch([ask(organization_id, name, hold_ttl=SECOND) for name in names])
    await metering.authorize_batch([ask(free, "unheld", hold_ttl=SECOND), ask(free, "unheld-and-open")])
    outcomes = await metering.authorize_batch(
        [ask(organization_id, "open"), ask(organization_id, "declined", input_tokens=1_000_000)]
    )
    assert ends(outcomes) == ["ALLOWED", "INSUFFICIENT_BALANCE"]
    await metering.settle(settlement(organization_id, "settled"))
    await cancel(metering, organization_id, "cancelled")
    before = states(await metering.authorizations(organization_id))
    await asyncio.sleep(1.1)
    after = states(await metering.authorizations(organization_id))
    await metering.settle(settlement(organization_id, "late"))
    at_last = states(await metering.authorizations(organization_id))

    assert before == {
        "declined": "DECLINED",
        "open": "OPEN",
        "late": "OPEN",
        "lapsed": "OPEN",
        "cancelled": "CANCELLED",
        "settled": "SETTLED",
    }
    assert after == before | {"late": "LAPSED", "lapsed": "LAPSED"}
    assert at_last == after | {"late": "SETTLED"}
    assert states(await metering.authorizations(free)) == {"unheld-and-open": "OPEN", "unheld": "LAPSED"}
    for state in set(at_last.values()):
        number = admission_pb2.AuthorizationState.Value(f"AUTHORIZATION_STATE_{state}")
        only = states(await metering.authorizations(organization_id, state=number))
        assert only == {name: its for name, its in at_last.items() if its == state}


async def test_listed_authorization_has_everything_that_was_authorized(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    user_id, project_id, api_key_id = new_id(), new_id(), new_id()
    request = ask(organization_id, "call-1", endpoint="/v1/chat", hold_ttl=Duration(seconds=90))
    principal = admission_pb2.Principal(
        organization_id=organization_id, user_id=user_id, project_id=project_id, api_key_id=api_key_id
    )
    request.principal.CopyFrom(principal)
    allowed = await metering.authorize(request)

    (listed,) = await metering.authorizations(organization_id)

    assert listed.principal == principal
    assert (listed.model, listed.endpoint, listed.service_tier) == ("gpt-4o", "/v1/chat", "standard")
    assert (listed.input_tokens, listed.max_output_tokens) == (1000, 1000)
    assert (listed.held_amount, listed.price_version_id) == (allowed.held_amount, allowed.price_version_id)
    assert listed.environment == usage_pb2.ENVIRONMENT_LIVE
    assert listed.expire_time.ToDatetime() - listed.create_time.ToDatetime() == timedelta(seconds=90)
    assert abs(allowed.expire_time.ToDatetime() - listed.expire_time.ToDatetime()) <= timedelta(seconds=1)


async def test_list_is_paged_filtered_and_of_one_organization(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    other = new_id()
    await metering.add_model("other")
    await metering.set_price("other", price_in="0", price_out="0")
    users = [new_id(), new_id()]
    for number in range(30):
        request = ask(organization_id, f"call-{number}", model="other")
        request.principal.user_id = users[number % 2]
        await metering.authorize(request)
    await metering.authorize(ask(other, "theirs", model="other"))

    listed = [one.operation_id for one in await metering.authorizations(organization_id)]
    assert listed == [f"call-{number}" for number in reversed(range(30))]
    odd = [one.operation_id for one in await metering.authorizations(organization_id, user_id=users[1].upper())]
    assert odd == [f"call-{number}" for number in reversed(range(1, 30, 2))]
    assert await metering.authorizations(organization_id, model="gpt-4o") == []
    assert await metering.authorizations(organization_id, end_time=stamp(hours=-1)) == []
    assert len(await metering.authorizations(other)) == 1

    request_ = admission_pb2.ListAuthorizationsRequest(organization_id=organization_id, page_size=3)
    page = await metering.admission.ListAuthorizations(request_, metadata=metering.operator)
    for stranger in (
        admission_pb2.ListAuthorizationsRequest(organization_id=other, page_token=page.next_page_token),
        admission_pb2.ListAuthorizationsRequest(organization_id=organization_id, page_token="nonsense"),
        admission_pb2.ListAuthorizationsRequest(
            organization_id=organization_id, start_time=stamp(days=-500), end_time=stamp()
        ),
        admission_pb2.ListAuthorizationsRequest(organization_id=organization_id, state=77),  # type: ignore[arg-type]
    ):
        answer = await refused(metering.admission.ListAuthorizations(stranger, metadata=metering.operator))
        assert answer == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


@pytest.mark.own_database
async def test_page_of_a_filter_with_few_matches_reads_a_bounded_number_of_rows(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.set_price("gpt-4o", price_in="0", price_out="0", organization_id=organization_id)
    await metering.authorize(ask(organization_id, "first"))
    await platform.execute(
        "INSERT INTO metering.authorizations (organization_id, operation_id, fingerprint, model, input_tokens,"
        " max_output_tokens, hold_ttl_ms, price_version_id, currency_code, amount, create_time)"
        " SELECT organization_id, 'more-' || number, fingerprint, 'other', 1, 1, 1000, price_version_id, 'USD', 0,"
        " create_time + number * interval '1 millisecond'"
        " FROM metering.authorizations, generate_series(1, 12000) AS number WHERE operation_id = 'first'"
    )
    request = admission_pb2.ListAuthorizationsRequest(organization_id=organization_id, model="gpt-4o")
    pages: list[int] = []
    while not pages or request.page_token:
        page = await metering.admission.ListAuthorizations(request, metadata=metering.operator)
        pages.append(len(page.authorizations))
        request.page_token = page.next_page_token

    assert pages == [0, 0, 1]


async def test_extended_authorization_is_held_until_then_and_a_repeat_changes_nothing(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    await metering.authorize_batch([ask(organization_id, name, hold_ttl=SECOND) for name in ("long", "short")])
    until = stamp(seconds=600)

    extended = await metering.extend(organization_id, "long", until)
    again = await metering.extend(organization_id, "long", until)
    earlier = await metering.extend(organization_id, "long", stamp(seconds=5))
    await asyncio.sleep(1.1)

    assert extended == again == earlier
    assert extended.expire_time.ToDatetime() == until.ToDatetime()
    assert states(await metering.authorizations(organization_id)) == {"short": "LAPSED", "long": "OPEN"}
    assert await held_amount(platform, organization_id) == "0.0125"
    request = ledger_pb2.GetHoldRequest(organization_id=organization_id, operation_id="long")
    hold = (await platform.ledger.ledger.GetHold(request, metadata=platform.ledger.metadata)).hold
    assert timedelta(0) <= hold.expire_time.ToDatetime() - until.ToDatetime() < timedelta(seconds=5)
    settled = await metering.settle(settlement(organization_id, "long"))
    assert settled.released_amount.value == "0.009"
    assert await metering.findings() == []


async def test_what_is_not_open_cannot_be_extended(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "0.05")
    names = ("settled", "cancelled", "lapsed")
    await metering.authorize_batch([ask(organization_id, name, hold_ttl=SECOND) for name in names])
    await metering.authorize(ask(organization_id, "declined", input_tokens=1_000_000))
    await metering.settle(settlement(organization_id, "settled"))
    await cancel(metering, organization_id, "cancelled")
    await lapse(platform, metering, organization_id)

    for name in (*names, "declined"):
        answer = await refused(metering.extend(organization_id, name, stamp(seconds=60)))
        assert answer == (grpc.StatusCode.FAILED_PRECONDITION, "AUTHORIZATION_NOT_OPEN"), name
    assert (await refused(metering.extend(organization_id, "never", stamp(seconds=60))))[0] is grpc.StatusCode.NOT_FOUND
    assert (await refused(metering.extend(new_id(), "settled", stamp(seconds=60))))[0] is grpc.StatusCode.NOT_FOUND
    assert await held_amount(platform, organization_id) == "0"


@pytest.mark.parametrize("seconds", [-1, 86_500])
async def test_extension_ends_in_the_future_and_within_a_day(
    platform: Platform, metering: Metering, organization_id: str, seconds: int
) -> None:
    await platform.fund(organization_id, "1")
    await metering.authorize(ask(organization_id, "call-1"))

    answer = await refused(metering.extend(organization_id, "call-1", stamp(seconds=seconds)))

    assert answer == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


@pytest.mark.own_database
async def test_extension_while_billing_is_away_is_refused_and_can_be_repeated(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    await metering.authorize(ask(organization_id, "call-1", hold_ttl=Duration(seconds=30)))
    await platform.stop_billing()
    until = stamp(seconds=600)

    answer = await refused(metering.extend(organization_id, "call-1", until))
    (unchanged,) = await metering.authorizations(organization_id)
    await platform.start_billing()

    assert answer == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert unchanged.expire_time.ToDatetime() < until.ToDatetime() - timedelta(seconds=300)

    async def extend() -> bool:
        try:
            await metering.extend(organization_id, "call-1", until)
        except grpc.aio.AioRpcError:
            return False
        return True

    await eventually(extend, bool)
    (extended,) = await metering.authorizations(organization_id)
    assert extended.expire_time.ToDatetime() == until.ToDatetime()


@pytest.mark.own_database
async def test_hold_that_a_repeat_places_later_is_listed_with_its_own_end(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    # What the caller is entitled to is known from then on.
    await metering.authorize(ask(organization_id, "call-0", hold_ttl=SECOND))
    await platform.stop_billing()
    await refused(metering.authorize(ask(organization_id, "call-1", hold_ttl=SECOND)))
    await asyncio.sleep(2.5)
    assert states(await metering.authorizations(organization_id)) == {"call-0": "LAPSED", "call-1": "LAPSED"}
    await platform.start_billing()

    async def authorize() -> bool:
        try:
            answer = await metering.authorize(ask(organization_id, "call-1", hold_ttl=SECOND))
        except grpc.aio.AioRpcError:
            return False
        return answer.decision == admission_pb2.DECISION_ALLOWED

    await eventually(authorize, bool)

    assert states(await metering.authorizations(organization_id)) == {"call-0": "LAPSED", "call-1": "OPEN"}


async def test_lapsed_holds_are_counted_once(platform: Platform, metering: Metering, organization_id: str) -> None:
    await platform.fund(organization_id, "1")
    before = EXPIRED_HOLDS.count
    names = [f"call-{number}" for number in range(5)]
    await metering.authorize_batch([ask(organization_id, name, hold_ttl=SECOND) for name in names])
    await metering.settle(settlement(organization_id, "call-0", tokens=model_pb2.TokenCounts(input=1)))
    await cancel(metering, organization_id, "call-1")
    await asyncio.sleep(1.1)

    # Whoever uses the account next ends them, and so does the sweeper.
    await asyncio.gather(*(platform.fund(organization_id, "1") for _ in range(5)))
    await asyncio.gather(*(platform.fund(organization_id, "1") for _ in range(5)))

    assert EXPIRED_HOLDS.count - before == 3
