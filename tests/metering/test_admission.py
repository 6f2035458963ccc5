from datetime import UTC
from decimal import Decimal

import grpc
import pytest

from libs.common.ids import new_id
from libs.common.status import error_info
from tests.metering.support import Metering, Platform, eventually, refused, settlement, stamp, usage
from tollhouse.billing.v1 import ledger_pb2
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.metering.v1 import admission_pb2, model_pb2, usage_pb2

ALLOWED = admission_pb2.DECISION_ALLOWED


def ask(organization_id: str, operation_id: str, **fields: object) -> admission_pb2.AuthorizeRequest:
    """Return a call of 1,000 input and at most 1,000 output tokens: an estimate of 0.0125."""
    request = admission_pb2.AuthorizeRequest(
        operation_id=operation_id,
        principal=admission_pb2.Principal(organization_id=organization_id),
        model="gpt-4o",
        input_tokens=1000,
        max_output_tokens=1000,
    )
    request.MergeFrom(admission_pb2.AuthorizeRequest(**fields))  # type: ignore[arg-type]
    return request


async def held(platform: Platform, organization_id: str) -> str:
    request = ledger_pb2.GetHoldRequest(organization_id=organization_id, operation_id="call-1")
    hold = (await platform.ledger.ledger.GetHold(request, metadata=platform.ledger.metadata)).hold
    return ledger_pb2.HoldState.Name(hold.state)


@pytest.mark.own_database
async def test_authorized_call_is_held_then_captured_and_the_rest_released(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")

    allowed = await metering.authorize(ask(organization_id, "call-1"))
    assert allowed.decision == admission_pb2.DECISION_ALLOWED
    assert (allowed.held_amount.value, bool(allowed.hold_id), list(allowed.limits)) == ("0.0125", True, [])
    settled = await metering.settle(settlement(organization_id, "call-1"))

    assert settled.usage.settlement == usage_pb2.SETTLEMENT_SETTLED
    assert (settled.released_amount.value, settled.overrun_amount.value) == ("0.009", "0")
    assert (settled.balance.posted.value, settled.balance.held.value) == ("0.9965", "0")
    assert await metering.charges() == await platform.billing_charges()
    assert await metering.findings() == []


async def test_repeats_give_the_same_answers_replayed(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    first = await metering.authorize(ask(organization_id, "call-1"))

    again = await metering.authorize(ask(organization_id, "call-1"))
    assert (again.replayed, again.hold_id, again.expire_time) == (True, first.hold_id, first.expire_time)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await metering.authorize(ask(organization_id, "call-1", input_tokens=5))
    info = error_info(caught.value)
    assert info is not None
    assert (info.reason, info.metadata["field"]) == ("OPERATION_ID_REUSED", "input_tokens")

    settled = await metering.settle(settlement(organization_id, "call-1"))
    repeated = await metering.settle(settlement(organization_id, "call-1"))
    assert (repeated.replayed, repeated.usage.usage_id) == (True, settled.usage.usage_id)
    assert await platform.posted(organization_id) == Decimal("0.9965")


async def test_denials_are_answers_with_reasons(platform: Platform, metering: Metering, organization_id: str) -> None:
    await metering.add_model("unpriced")
    await metering.add_model("off", inactive=True)
    await metering.set_price("off")
    await platform.fund(organization_id, "0.01")

    reasons = {}
    for model in ("nobody", "unpriced", "off", "gpt-4o"):
        denied = await metering.authorize(ask(organization_id, f"call-{model}", model=model))
        assert denied.decision == admission_pb2.DECISION_DENIED
        reasons[model] = admission_pb2.DenialReason.Name(denied.denial.reason).removeprefix("DENIAL_REASON_")
        if model == "gpt-4o":
            facts = dict(denied.denial.facts)
            assert facts == facts | {"posted": "0.01", "held": "0", "available": "0.01", "needed": "0.0125"}

    assert reasons == {
        "nobody": "MODEL_UNKNOWN",
        "unpriced": "PRICE_UNKNOWN",
        "off": "MODEL_INACTIVE",
        "gpt-4o": "INSUFFICIENT_BALANCE",
    }


async def test_declined_hold_stays_declined_after_a_top_up(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.authorize(ask(organization_id, "call-1"))
    await platform.fund(organization_id, "10")

    again = await metering.authorize(ask(organization_id, "call-1"))
    other = await metering.authorize(ask(organization_id, "call-2"))

    assert (again.decision, again.replayed) == (admission_pb2.DECISION_DENIED, True)
    assert other.decision == admission_pb2.DECISION_ALLOWED


@pytest.mark.own_database
async def test_settle_uses_the_price_of_the_authorization_whatever_happened_since(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    allowed = await metering.authorize(ask(organization_id, "call-1"))
    await metering.set_price(price_in="100", price_out="100", effective_time=stamp(seconds=-1))

    settled = await metering.settle(settlement(organization_id, "call-1"))
    fresh = await metering.record(usage(organization_id, "call-2"))

    assert (settled.usage.cost.value, settled.usage.price_version_id) == ("0.0035", allowed.price_version_id)
    assert fresh.usage.cost.value == "0.11"
    assert await metering.findings() == []


@pytest.mark.own_database
async def test_settle_knows_the_authorization_of_another_process(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    user_id = new_id()
    request = ask(organization_id, "call-1", endpoint="/v1/chat")
    request.principal.user_id = user_id
    await metering.authorize(request)
    await platform.stop_metering()
    other = await platform.start_metering()

    settled = await other.settle(settlement(organization_id, "call-1"))

    assert (settled.usage.user_id, settled.usage.endpoint) == (user_id, "/v1/chat")
    assert settled.released_amount.value == "0.009"


@pytest.mark.own_database
async def test_settle_above_the_hold_charges_everything(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "0.0125")
    await metering.authorize(ask(organization_id, "call-1"))

    tokens = model_pb2.TokenCounts(output=9_900)
    settled = await metering.settle(settlement(organization_id, "call-1", tokens=tokens))

    assert settled.usage.cost.value == "0.1015"
    assert settled.overrun_amount.value == "0.089"
    assert await platform.posted(organization_id) == Decimal("-0.089")


@pytest.mark.own_database
async def test_settle_without_an_authorization_works_like_record_usage(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    settled = await metering.settle(settlement(organization_id, "call-1"))
    recorded = await metering.record(usage(organization_id, "call-1"))

    assert settled.usage.settlement == usage_pb2.SETTLEMENT_SETTLED
    assert (recorded.replayed, recorded.usage.usage_id) == (True, settled.usage.usage_id)
    assert await platform.posted(organization_id) == Decimal("-0.0035")


@pytest.mark.own_database
async def test_settle_without_tokens_releases_the_hold(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    await metering.authorize(ask(organization_id, "call-1"))

    settled = await metering.settle(
        admission_pb2.SettleRequest(organization_id=organization_id, operation_id="call-1", model="gpt-4o")
    )

    assert settled.released_amount.value == "0.0125"
    assert await held(platform, organization_id) == "HOLD_STATE_CAPTURED"
    assert await platform.posted(organization_id) == 1
    assert await metering.findings() == []


@pytest.mark.own_database
async def test_cancel_releases_the_hold_once_and_not_after_settling(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    await metering.authorize(ask(organization_id, "call-1"))
    request = admission_pb2.CancelRequest(organization_id=organization_id, operation_id="call-1")

    cancelled = await metering.admission.Cancel(request, metadata=metering.gateway)
    again = await metering.admission.Cancel(request, metadata=metering.gateway)
    unknown = admission_pb2.CancelRequest(organization_id=organization_id, operation_id="never")
    missing, _ = await refused(metering.admission.Cancel(unknown, metadata=metering.gateway))
    late = await metering.settle(settlement(organization_id, "call-1"))
    settled = await refused(metering.admission.Cancel(request, metadata=metering.gateway))

    assert (cancelled.released_amount.value, cancelled.replayed) == ("0.0125", False)
    assert again.replayed
    assert missing == grpc.StatusCode.NOT_FOUND
    assert late.usage.settlement == usage_pb2.SETTLEMENT_SETTLED
    assert settled == (grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_SETTLED")
    assert await platform.posted(organization_id) == Decimal("0.9965")


async def test_repeat_of_an_ended_authorization_is_denied(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    await metering.add_model("free")
    await metering.set_price("free", price_in="0", price_out="0")
    for operation_id, model in (("settled", "gpt-4o"), ("free", "free"), ("cancelled", "gpt-4o")):
        assert (await metering.authorize(ask(organization_id, operation_id, model=model))).decision == ALLOWED
    brief = ask(organization_id, "expired", hold_ttl={"seconds": 1})
    allowed = await metering.authorize(brief)
    await metering.settle(settlement(organization_id, "settled"))
    await metering.settle(settlement(organization_id, "free", model="free"))
    cancel = admission_pb2.CancelRequest(organization_id=organization_id, operation_id="cancelled")
    await metering.admission.Cancel(cancel, metadata=metering.gateway)

    repeats = [ask(organization_id, "settled"), ask(organization_id, "free", model="free")]
    repeats.append(ask(organization_id, "cancelled"))
    answers = [await metering.authorize(repeat) for repeat in repeats]
    answers.append(await eventually(lambda: metering.authorize(brief), lambda answer: answer.decision != ALLOWED))

    assert {answer.denial.reason for answer in answers} == {admission_pb2.DENIAL_REASON_AUTHORIZATION_ENDED}
    assert all(answer.replayed and not answer.hold_id for answer in answers)
    assert allowed.expire_time.ToDatetime(UTC) <= platform.clock.now()
    assert (await metering.authorize(ask(organization_id, "next"))).decision == ALLOWED


@pytest.mark.own_database
async def test_key_names_the_principal_and_is_refused_once_its_revocation_is_pushed(
    platform: Platform, metering: Metering
) -> None:
    identity = await platform.start_identity()
    created = await identity.create_key(api_key_pb2.CreateApiKeyRequest(allowed_models=["gpt-*"], scopes=["chat"]))
    organization_id, key = created.api_key.organization_id, created.secret
    await platform.fund(organization_id, "1")

    async def reason(operation_id: str, **fields: object) -> str:
        request = ask(organization_id, operation_id, api_key=key, **fields)
        return admission_pb2.DenialReason.Name((await metering.authorize(request)).denial.reason)

    allowed = await metering.authorize(ask(organization_id, "call-1", api_key=key, required_scopes=["chat"]))
    assert allowed.principal.api_key_id == created.api_key.api_key_id
    assert await reason("call-2", model="other") == "DENIAL_REASON_KEY_MODEL_NOT_ALLOWED"
    assert await reason("call-3", required_scopes=["admin"]) == "DENIAL_REASON_KEY_INSUFFICIENT_SCOPE"
    assert await reason("call-4") == "DENIAL_REASON_UNSPECIFIED"

    revision = await identity.revoke(created.api_key)

    assert await reason("call-5", min_revision=revision) == "DENIAL_REASON_KEY_REVOKED"
    await eventually(lambda: reason("call-6"), lambda name: name == "DENIAL_REASON_KEY_REVOKED")
    settled = await metering.settle(settlement(organization_id, "call-1"))
    assert settled.usage.api_key_id == created.api_key.api_key_id


@pytest.mark.parametrize(
    "bad",
    [
        {"operation_id": ""},
        {"model": ""},
        {"input_tokens": -1},
        {"input_tokens": 10**9 + 1},
        {"max_output_tokens": -1},
        {"hold_ttl": {"seconds": 0}},
        {"hold_ttl": {"seconds": 3601}},
        {"principal": admission_pb2.Principal(organization_id="x")},
    ],
    ids=str,
)
async def test_invalid_authorize_requests_are_refused(
    metering: Metering, organization_id: str, bad: dict[str, object]
) -> None:
    fields: dict[str, object] = {
        "operation_id": "call-1",
        "model": "gpt-4o",
        "principal": admission_pb2.Principal(organization_id=organization_id),
    }
    request = admission_pb2.AuthorizeRequest(**(fields | bad))  # type: ignore[arg-type]

    code, _ = await refused(metering.authorize(request))

    assert code == grpc.StatusCode.INVALID_ARGUMENT
