"""`tollhouse plans`: what it prints, and what it changes."""

import json
from collections.abc import AsyncIterator

import pytest

from libs.common.ids import new_id
from tests.billing.plan_calls import everything, reference
from tests.system.commands import done, found, made, refused
from tests.system.installation import Installation
from tollhouse.billing.v1 import plan_pb2 as pb
from tollhouse.billing.v1 import plan_pb2_grpc


@pytest.fixture
async def plan(installation: Installation) -> AsyncIterator[pb.Plan]:
    """A new plan with all that a plan can have."""
    plan_code = f"team-{new_id()}"
    request = pb.CreatePlanRequest(
        plan_code=plan_code, name="Team", terms=everything(), provider_references=[reference(plan_code)]
    )
    async with installation.connection().open() as channels:
        yield (await plan_pb2_grpc.PlanServiceStub(channels.billing).CreatePlan(request)).plan


def test_plans_that_come_with_tollhouse_are_listed_in_their_order(installation: Installation) -> None:
    lines = done(installation, "plans", "list").splitlines()
    (first,) = (line for line in lines if line.startswith("free "))
    assert first.split() == ["free", "Free", "1", "0", "USD", "month", "10", "CREDIT", "yes", "no"]
    listed = [plan["plan_code"] for plan in found(installation, "plans", "list", "--all")]
    seeded = ("free", "basic", "pro", "enterprise")
    assert [code for code in listed if code in seeded] == list(seeded)
    limited = installation.command("plans", "list", "--limit", "1")
    assert "There are more" in limited.stderr


def test_plan_is_shown_with_all_that_it_allows(installation: Installation, plan: pb.Plan) -> None:
    shown = done(installation, "plans", "show", plan.plan_code)
    lines = {line[:24].strip(): line[25:] for line in shown.splitlines()}
    expected = {
        "plan id": plan.plan_id,
        "plan code": plan.plan_code,
        "active": "yes",
        "provider references": f"provider lemon_squeezy, kind variant, external_id {plan.plan_code}",
        "price": "49.000000001 USD every 10 years",
        "trial": "14 days",
        "credits": "0.5 USD, rollover all, priority 3",
        "api access": "yes",
        "white label": "no",
        "seats": "-2.5",
        "region": '"Zürich \N{FACE WITH TEARS OF JOY}"',
        "no text": '""',
        "requests per minute": "5 requests per minute",
        "budget": "20 spend USD per period, soft",
        "tokens": "unlimited total_tokens per lifetime",
        "usage of pages": "pages of reader, acme/reader-2, volume in USD: from 0 to 250.5 at 0.02 and 1; "
        "above 250.5 at 0; flat fee 9.5 also without usage",
        "past due": "retry after 1 s, retry after 90 d, change plan free",
        "metadata": "a.b/c=, colour=blue",
    }
    assert {name: lines.get(name) for name in expected} == expected
    assert "100 CREDIT, rollover up to 250 CREDIT, priority 1000" in shown
    assert "Version 1, draft" in shown
    document = json.loads(done(installation, "plans", "show", plan.plan_id, "--json"))
    assert document["draft_version"]["terms"]["price"] == {"currency_code": "USD", "value": "49.000000001"}


def test_draft_is_published_and_the_plan_archived_after_confirmation(installation: Installation, plan: pb.Plan) -> None:
    code = plan.plan_code
    for command in (("publish", code, "1"), ("archive", code)):
        assert "--yes" in refused(installation, 2, "plans", *command)
    published: dict[str, object] = dict(made(installation, "plans", "publish", code, "1", "--yes"))
    assert published["published_version"]["version"] == 1  # type: ignore[index]  # it is an object in JSON.
    # There is nothing left to confirm.
    assert code in done(installation, "plans", "publish", code, "1")
    assert "NOT_FOUND" in refused(installation, 1, "plans", "publish", code, "2")
    assert "Version 1, published" in done(installation, "plans", "show", code, "--version", "1")
    assert made(installation, "plans", "archive", code, "--yes")["archive_time"]
    assert code not in done(installation, "plans", "list")
    assert code in done(installation, "plans", "list", "--all")


def test_unknown_plan_is_one_line(installation: Installation) -> None:
    assert "There is no such plan." in refused(installation, 1, "plans", "show", "nothing")
    assert "plan_code" in refused(installation, 2, "plans", "show", "No Plan")


async def test_experiment_is_set_shown_and_ended(installation: Installation, plan: pb.Plan) -> None:
    code = plan.plan_code
    done(installation, "plans", "publish", code, "1", "--yes")
    begun: dict[str, object] = dict(made(installation, "plans", "experiment", "set", code, f"{code}=3", "basic=1"))
    assert begun["variants"] == [{"plan_code": "basic", "weight": 1}, {"plan_code": code, "weight": 3}]
    request = pb.GetPlanOfferRequest(organization_id=new_id(), plan_code=code)
    async with installation.connection().open() as channels:
        offered = await plan_pb2_grpc.PlanServiceStub(channels.billing).GetPlanOffer(request)

    shown = done(installation, "plans", "experiment", "show", code).splitlines()
    saw = {row[0]: row[1:] for row in (line.split() for line in shown[-2:])}
    assert saw == {
        one: [weight, "1" if one == offered.plan.plan_code else "0", "0", "0", "0"]
        for one, weight in (("basic", "1"), (code, "3"))
    }
    document = json.loads(done(installation, "plans", "experiment", "show", code, "--json"))
    assert sum(int(result["saw_count"]) for result in document["results"]) == 1
    for wrong in ((), ("basic",), ("basic=1", "--end"), ("basic=many",)):
        refused(installation, 2, "plans", "experiment", "set", code, *wrong)
    assert "--yes" in refused(installation, 2, "plans", "experiment", "set", code, "--end")
    assert "end time" in done(installation, "plans", "experiment", "set", code, "--end", "--yes")
    assert "NOT_FOUND" in refused(installation, 1, "plans", "experiment", "show", "enterprise")
