"""Admission policies: who has which, how they change, and which are refused."""

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from libs.common.ids import new_id
from tests.metering.policy_calls import CAP, FIXED, INPUT, MODEL_MAX, RELEASE, cap, fix, found, update, updated
from tests.metering.support import Metering, Platform, refused, usd
from tests.metering.test_audit import events
from tests.metering.unit_calls import faults
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import admission_pb2 as pb

STALE = (grpc.StatusCode.ABORTED, "STALE_ETAG")
HOUR, WEEK = Duration(seconds=3600), Duration(seconds=604_800)


async def test_organization_has_the_default_until_it_is_given_a_policy(
    metering: Metering, organization_id: str
) -> None:
    before = await found(metering, organization_id)
    changed = await updated(metering, organization_id, output_hold=CAP, output_tokens_cap=500)

    assert before == pb.AdmissionPolicy(
        organization_id=organization_id, output_hold=MODEL_MAX, lapse_charge=RELEASE, lapse_after=HOUR
    )
    assert (changed.output_hold, changed.output_tokens_cap) == (CAP, 500)
    assert changed.etag
    assert changed.HasField("update_time")
    assert await found(metering, organization_id) == changed
    assert await found(metering, organization_id.upper()) == changed


async def test_policies_of_two_organizations_have_nothing_to_do_with_each_other(metering: Metering) -> None:
    organizations = [new_id() for _ in range(6)]
    for number, organization_id in enumerate(organizations[:-1], 1):
        await cap(metering, organization_id, number)

    caps = [(await found(metering, organization_id)).output_tokens_cap for organization_id in organizations]

    assert caps == [1, 2, 3, 4, 5, 0]


async def test_update_changes_the_fields_of_its_mask_and_no_others(metering: Metering, organization_id: str) -> None:
    await updated(metering, organization_id, lapse_charge=INPUT, lapse_after=WEEK)
    request = update(organization_id, output_hold=FIXED, fixed_amount=usd("0.5"))
    request.lapse_charge, request.output_tokens_cap = RELEASE, 9
    changed = (await metering.admission.UpdateAdmissionPolicy(request, metadata=metering.operator)).policy

    assert (changed.output_hold, changed.fixed_amount, changed.output_tokens_cap) == (FIXED, usd("0.5"), 0)
    assert (changed.lapse_charge, changed.lapse_after) == (INPUT, WEEK)
    mask = FieldMask(paths=["output_hold", "fixed_amount", "lapse_charge", "lapse_after"])
    reset = pb.UpdateAdmissionPolicyRequest(organization_id=organization_id, update_mask=mask)
    back = (await metering.admission.UpdateAdmissionPolicy(reset, metadata=metering.operator)).policy
    assert (back.output_hold, back.HasField("fixed_amount")) == (MODEL_MAX, False)
    assert (back.lapse_charge, back.lapse_after) == (RELEASE, HOUR)
    assert back.etag not in ("", changed.etag)


async def test_repeated_update_changes_nothing_and_leaves_one_event(metering: Metering, organization_id: str) -> None:
    await updated(metering, organization_id, output_hold=MODEL_MAX)
    assert await events(metering, organization_id) == []
    first = await updated(metering, organization_id, output_hold=CAP, output_tokens_cap=500)
    again = await updated(metering, organization_id, output_hold=CAP, output_tokens_cap=500)
    await updated(metering, organization_id, output_hold=FIXED, output_tokens_cap=0, fixed_amount=usd("2.50"))

    assert again == first
    one, other = await events(metering, organization_id, resource_type="admission_policy", resource_id=organization_id)
    assert (one.action, one.actor) == ("UpdateAdmissionPolicy", "operator:alice")
    assert {change.field: (change.before, change.after) for change in one.changes} == {
        "output_hold": ("MODEL_MAX", "CAP"),
        "output_tokens_cap": ("0", "500"),
    }
    assert {change.field: (change.before, change.after) for change in other.changes} == {
        "output_hold": ("CAP", "FIXED"),
        "output_tokens_cap": ("500", "0"),
        "fixed_amount": ("", "2.5 USD"),
    }


async def test_update_with_the_etag_of_an_earlier_policy_is_refused(metering: Metering, organization_id: str) -> None:
    for etag in ("0", "1", "no etag"):
        assert await refused(updated(metering, organization_id, lapse_charge=INPUT, etag=etag)) == STALE
    first = await updated(metering, organization_id, lapse_charge=INPUT)
    second = await updated(metering, organization_id, lapse_after=WEEK, etag=first.etag)

    assert await refused(updated(metering, organization_id, lapse_after=HOUR, etag=first.etag)) == STALE
    assert await found(metering, organization_id) == second


async def test_of_updates_with_one_etag_at_once_one_is_made(metering: Metering, organization_id: str) -> None:
    etag = (await updated(metering, organization_id, lapse_charge=INPUT)).etag

    outcomes = await asyncio.gather(
        *(updated(metering, organization_id, lapse_after=Duration(seconds=s), etag=etag) for s in range(6)),
        return_exceptions=True,
    )

    assert sum(isinstance(outcome, pb.AdmissionPolicy) for outcome in outcomes) == 1


async def test_first_policies_at_once_leave_one_policy_with_an_event_for_each_change(
    metering: Metering, organization_id: str
) -> None:
    outcomes = await asyncio.gather(
        *(updated(metering, organization_id, lapse_after=Duration(seconds=s)) for s in range(6)),
        return_exceptions=True,
    )

    made = [outcome for outcome in outcomes if isinstance(outcome, pb.AdmissionPolicy)]
    policy = await found(metering, organization_id)
    assert policy in made
    assert len({one.etag for one in made}) == len(made) == int(policy.etag)
    assert len(await events(metering, organization_id)) == len(made)


@pytest.mark.own_database
async def test_policy_of_an_organization_that_does_not_exist_is_refused(platform: Platform, metering: Metering) -> None:
    await platform.start_identity()
    unknown = new_id()

    answer = await refused(updated(metering, unknown, lapse_charge=INPUT))

    assert answer == (grpc.StatusCode.NOT_FOUND, "ORGANIZATION_NOT_FOUND")
    assert await platform.value("SELECT count(*) FROM metering.admission_policies") == 0


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"output_hold": CAP}, {"output_tokens_cap"}),
        ({"output_hold": FIXED}, {"fixed_amount"}),
        ({"output_tokens_cap": 5}, {"output_tokens_cap"}),
        ({"fixed_amount": usd("1")}, {"fixed_amount"}),
        ({"output_hold": CAP, "output_tokens_cap": 5, "fixed_amount": usd("1")}, {"fixed_amount"}),
        ({"output_hold": FIXED, "output_tokens_cap": 5}, {"fixed_amount", "output_tokens_cap"}),
        ({"output_hold": FIXED, "fixed_amount": usd("0")}, {"fixed_amount.value"}),
        ({"output_hold": FIXED, "fixed_amount": usd("-1")}, {"fixed_amount.value"}),
        ({"output_hold": FIXED, "fixed_amount": usd("1e9")}, {"fixed_amount.value"}),
        ({"output_hold": FIXED, "fixed_amount": usd("0.0000000001")}, {"fixed_amount.value"}),
        (
            {"output_hold": FIXED, "fixed_amount": Amount(currency_code="usd", value="x")},
            {"fixed_amount.currency_code", "fixed_amount.value"},
        ),
        ({"output_tokens_cap": -1}, {"output_tokens_cap"}),
        ({"output_tokens_cap": 1_000_000_001}, {"output_tokens_cap"}),
        ({"output_hold": 9}, {"output_hold"}),
        ({"lapse_charge": 9}, {"lapse_charge"}),
        ({"lapse_after": Duration(seconds=-1)}, {"lapse_after"}),
        ({"lapse_after": Duration(seconds=604_801)}, {"lapse_after"}),
        ({"lapse_after": Duration(nanos=500_000)}, {"lapse_after"}),
        ({"etag": "e\x00"}, {"etag", "update_mask"}),
    ],
)
async def test_policy_that_makes_no_sense_is_refused_with_each_field(
    metering: Metering, organization_id: str, fields: dict[str, object], at_fault: set[str]
) -> None:
    assert set(await faults(updated(metering, organization_id, **fields))) == at_fault
    assert (await found(metering, organization_id)).etag == ""


async def test_what_must_be_consistent_is_the_policy_as_it_would_be(metering: Metering, organization_id: str) -> None:
    await fix(metering, organization_id, "1")
    before = await found(metering, organization_id)

    assert set(await faults(updated(metering, organization_id, output_hold=MODEL_MAX))) == {"fixed_amount"}
    assert set(await faults(updated(metering, organization_id, output_hold=CAP, output_tokens_cap=1))) == {
        "fixed_amount"
    }
    assert set(await faults(updated(metering, organization_id, fixed_amount=None))) == {"fixed_amount"}
    assert await found(metering, organization_id) == before
    assert (await updated(metering, organization_id, fixed_amount=usd("2"))).fixed_amount == usd("2")


@pytest.mark.parametrize("paths", [[], ["organization_id"], ["output_hold", "etag"], ["output_hold.x"], ["*"]])
async def test_mask_names_fields_that_can_be_changed(
    metering: Metering, organization_id: str, paths: list[str]
) -> None:
    request = pb.UpdateAdmissionPolicyRequest(organization_id=organization_id, update_mask=FieldMask(paths=paths))

    answered = faults(metering.admission.UpdateAdmissionPolicy(request, metadata=metering.operator))

    assert set(await answered) == {"update_mask"}
