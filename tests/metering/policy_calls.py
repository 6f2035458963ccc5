"""Calls on admission policies, and authorizations that leave it to the policy what is held."""

from google.protobuf.duration_pb2 import Duration

from tests.metering.support import Metering, usd
from tests.metering.test_batch_admission import ask
from tollhouse.metering.v1 import admission_pb2 as pb

MODEL_MAX, CAP, FIXED = pb.OUTPUT_HOLD_MODEL_MAX, pb.OUTPUT_HOLD_CAP, pb.OUTPUT_HOLD_FIXED
RELEASE, INPUT = pb.LAPSE_CHARGE_RELEASE, pb.LAPSE_CHARGE_INPUT


def update(organization_id: str, **fields: object) -> pb.UpdateAdmissionPolicyRequest:
    """Return an update of the given fields; the etag is none of the policy's."""
    request = pb.UpdateAdmissionPolicyRequest(organization_id=organization_id, **fields)  # type: ignore[arg-type]
    request.update_mask.paths.extend(name for name in fields if name != "etag")
    return request


async def updated(metering: Metering, organization_id: str, **fields: object) -> pb.AdmissionPolicy:
    request = update(organization_id, **fields)
    return (await metering.admission.UpdateAdmissionPolicy(request, metadata=metering.operator)).policy


async def found(metering: Metering, organization_id: str) -> pb.AdmissionPolicy:
    request = pb.GetAdmissionPolicyRequest(organization_id=organization_id)
    return (await metering.admission.GetAdmissionPolicy(request, metadata=metering.operator)).policy


async def cap(metering: Metering, organization_id: str, tokens: int) -> None:
    """Let an organization hold for so many output tokens."""
    await updated(metering, organization_id, output_hold=CAP, output_tokens_cap=tokens, fixed_amount=None)


async def fix(metering: Metering, organization_id: str, value: str) -> None:
    """Let an organization hold so many dollars."""
    await updated(metering, organization_id, output_hold=FIXED, fixed_amount=usd(value), output_tokens_cap=0)


async def charge_input(metering: Metering, organization_id: str, *, lapse_after_s: int = 0) -> None:
    """Let the input of an organization's lapsed authorizations be charged."""
    await updated(metering, organization_id, lapse_charge=INPUT, lapse_after=Duration(seconds=lapse_after_s))


def open_ask(organization_id: str, operation_id: str, **fields: object) -> pb.AuthorizeRequest:
    """Return a call of 1,000 input tokens without a maximum of output tokens."""
    request = ask(organization_id, operation_id, **fields)
    request.ClearField("max_output_tokens")
    return request
