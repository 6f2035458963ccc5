"""The texts of a user are emptied; money, sums, repeats and the fact that calls failed stay."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from libs.common.clock import SystemClock
from libs.common.ids import new_id
from libs.common.shards import Shards
from services.metering.conversation.erasure import forget_user_after
from services.metering.retention import forget_store
from services.metering.retention.forgetting import Forgetting
from tests.metering.conversations.calls import append, begin, conversation, message, penny
from tests.metering.corrections.calls import amend, found
from tests.metering.retention.calls import old_usage
from tests.metering.support import Metering, Platform, eventually, refused, settlement, usage
from tollhouse.common.v1 import audit_pb2
from tollhouse.metering.v1 import admission_pb2
from tollhouse.metering.v1 import retention_pb2 as pb

pytestmark = [pytest.mark.own_database, pytest.mark.shards]

SECRET = "Ada's doctor said"


async def forgotten(metering: Metering, user_id: str) -> pb.ForgottenUser:
    """Return how much was emptied, when all is done."""
    request = pb.GetForgottenUserRequest(user_id=user_id)

    async def look() -> pb.ForgottenUser:
        return (await metering.retention.GetForgottenUser(request, metadata=metering.operator)).forgotten_user

    return await eventually(look, lambda one: one.done)


async def test_texts_of_a_user_are_gone_and_nothing_else_changes(platform: Platform, metering: Metering) -> None:
    identity = await platform.start_identity()
    ids = [(await identity.create_organization())[0] for _ in range(3)]
    ada, bob = new_id(), new_id()
    texts: dict[str, Any] = {
        "error_message": SECRET,
        "labels": {"note": SECRET},
        "conversation_id": SECRET,
        "status_code": 200,
    }
    requests = []
    for organization_id in ids:
        for user_id, name in ((ada, "ada"), (bob, "bob")):
            requests.append(usage(organization_id, f"{name}-now", user_id=user_id, **texts))
            requests.append(old_usage(organization_id, f"{name}-old", user_id=user_id, **texts))
    outcomes = await metering.record_batch(requests)
    assert all(outcome.HasField("recorded") for outcome in outcomes)
    await amend(metering, ids[0], "ada-now", labels={"note": f"{SECRET} again"})
    for organization_id in ids:
        for user_id, name in ((ada, "ada"), (bob, "bob")):
            await begin(metering, organization_id, f"of-{name}", user_id=user_id, title=SECRET)
            await append(metering, message(organization_id, f"of-{name}", content=SECRET, usage=penny()))
    await platform.settled()
    charges = await metering.charges()

    request = pb.ForgetUserRequest(user_id=ada.upper())
    answers = await asyncio.gather(*(metering.retention.ForgetUser(request, metadata=metering.operator) for _ in "abc"))
    assert {one.forgotten_user.user_id for one in answers} == {ada}
    done = await forgotten(metering, ada)

    # In each organization two usages, a conversation and the usage of its message; and two lines of a correction.
    assert done.emptied_count == 14
    record = (await found(metering, ids[0], "ada-now")).usage
    assert (dict(record.labels), record.conversation_id, record.error_message) == ({}, "", "")
    assert (await metering.get(ids[0], "bob-now")).labels["note"] == SECRET
    for organization_id in ids:
        titles = [(await conversation(metering, organization_id, f"of-{name}")).title for name in ("ada", "bob")]
        assert titles == ["", SECRET]
    kept = "SELECT count(*) FROM metering.conversation_messages WHERE content IS NOT NULL AND conversation_id = $1"
    assert [await platform.value(kept, f"of-{name}") for name in ("ada", "bob")] == [0, 3]
    for table in ("usage_records", "usage_correction_lines"):
        left = f"SELECT count(*) FROM metering.{table} WHERE user_id = $1 AND CAST(({table}) AS text) LIKE $2"  # noqa: S608
        assert await platform.value(left, ada, f"%{SECRET[:3]}%") == 0
    assert await platform.value("SELECT sum(errors) FROM metering.usage_hours") == 12
    assert await metering.charges() == charges
    assert await metering.findings() == []
    assert await platform.verify() == []
    again = await metering.record(requests[0])
    assert again.replayed
    requests[0].labels["note"] = "other"
    assert (await refused(metering.record(requests[0])))[1] == "OPERATION_ID_REUSED"
    trail = await metering.audit.ListAuditEvents(
        audit_pb2.ListAuditEventsRequest(page_size=100), metadata=metering.operator
    )
    assert [one.resource_id for one in trail.events if one.resource_type == "forgotten_user"] == [ada]
    assert SECRET not in str(trail)


async def test_what_calls_keep_of_a_user_until_they_are_recorded_is_gone(
    platform: Platform, metering: Metering
) -> None:
    identity = await platform.start_identity()
    (organization_id, _), ada, bob = await identity.create_organization(), new_id(), new_id()
    await platform.fund(organization_id)
    for user_id, name in ((ada, "ada"), (bob, "bob")):
        for state in ("recorded", "open"):
            principal = admission_pb2.Principal(organization_id=organization_id, user_id=user_id)
            ask = admission_pb2.AuthorizeRequest(
                operation_id=f"{name}-{state}",
                principal=principal,
                model="gpt-4o",
                input_tokens=1000,
                max_output_tokens=100,
                labels={"note": SECRET},
            )
            assert (await metering.authorize(ask)).decision == admission_pb2.DECISION_ALLOWED
            part = settlement(organization_id, f"{name}-{state}", error_message=SECRET)
            part.final = False
            await metering.settle(part)
        # The last settlement says nothing of a person.
        await metering.settle(settlement(organization_id, f"{name}-recorded"))
    await platform.settled()

    await metering.retention.ForgetUser(pb.ForgetUserRequest(user_id=ada), metadata=metering.operator)
    assert (await forgotten(metering, ada)).emptied_count == 2

    named = "SELECT string_agg(operation_id, ' ' ORDER BY operation_id) FROM metering"
    assert await platform.value(f"{named}.authorizations WHERE labels IS NOT NULL") == "bob-open bob-recorded"
    # A part of an open call is what is recorded, if nothing else comes.
    assert await platform.value(f"{named}.settlement_parts WHERE request <> ''") == "ada-open bob-open bob-recorded"
    await metering.settle(settlement(organization_id, "ada-open"))
    await platform.settled()
    assert await metering.findings() == []
    assert await platform.verify() == []


async def test_forgetting_that_dies_after_any_range_goes_on_where_it_was(
    platform: Platform, metering_shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    organization_id, user_id = new_id(), new_id()
    await platform.metering.record_batch(
        [usage(organization_id, f"call-{number}", user_id=user_id, labels={"n": str(number)}) for number in range(7)]
    )
    await amend(platform.metering, organization_id, "call-0", labels={"n": "other"})
    await platform.settled()
    platform.drops_every_s = 600
    await platform.stop_metering()
    metering = await platform.start_metering()
    await metering.retention.ForgetUser(pb.ForgetUserRequest(user_id=user_id), metadata=metering.operator)
    for number in range(3):
        await begin(metering, organization_id, f"c{number}", user_id=user_id, title=SECRET)
    monkeypatch.setattr(forget_store, "ROWS_MAX", 2)
    monkeypatch.setattr("services.metering.retention.forgetting.LEASE", timedelta(0))
    work = Forgetting(metering_shards[0], metering_shards, forget_user_after, SystemClock(), every_s=1)
    deaths, save = 0, forget_store.save

    async def dying(*values: object) -> None:
        nonlocal deaths
        deaths += 1
        if deaths % 2:
            raise RuntimeError
        await save(*values)  # type: ignore[arg-type]

    monkeypatch.setattr(forget_store, "save", dying)
    while not (await work.get(user_id)).done_time:
        try:
            await work.step()
        except RuntimeError:
            assert await metering.findings() == []
    assert deaths > 8
    left = "SELECT count(*) FROM metering.usage_records WHERE labels IS NOT NULL AND user_id = $1"
    assert await platform.value(left, user_id) == 0
    left = "SELECT count(*) FROM metering.usage_correction_lines WHERE labels IS NOT NULL AND user_id = $1"
    assert await platform.value(left, user_id) == 0
    left = "SELECT count(*) FROM metering.conversations WHERE title <> '' AND user_id = $1"
    assert await platform.value(left, user_id) == 0
    assert await metering.findings() == []
