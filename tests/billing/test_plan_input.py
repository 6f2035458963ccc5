"""Plans that cannot be, and odd text in every field of PlanService, are refused with the fields at fault."""

from typing import Final

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from libs.common.ids import new_id
from tests.billing.plan_calls import (
    SEEDED,
    codes,
    created,
    credit,
    everything,
    faults,
    feature,
    found,
    included,
    limit,
    listed,
    new_plan,
    reference,
    terms,
    update,
    updated,
)
from tests.billing.support import BillingServer, Ledger, organization, usd
from tests.support.callers import Callers
from tests.support.hostile_calls import HostileCalls
from tests.support.odd_requests import methods_of, variants
from tollhouse.billing.v1 import plan_pb2 as pb
from tollhouse.common.v1.amount_pb2 import Amount

DAY_S: Final = 86_400


def interval(unit: pb.IntervalUnit.ValueType, count: int) -> pb.Interval:
    return pb.Interval(unit=unit, count=count)


def past_due(*after_s: int, **fields: object) -> pb.PastDuePolicy:
    known = {"retry_after": [Duration(seconds=seconds) for seconds in after_s]}
    return pb.PastDuePolicy(**known | fields)  # type: ignore[arg-type]


def entitled(code: str = "x", **fields: object) -> pb.Entitlement:
    return pb.Entitlement(entitlement_code=code, **fields)  # type: ignore[arg-type]


# What is wrong with terms, by the path of the field in them.
BAD_TERMS: Final = [
    ({"price": None}, {"price"}),
    ({"price": Amount(currency_code="usd", value="1")}, {"price.currency_code"}),
    ({"price": Amount(currency_code="", value="0")}, {"price.currency_code"}),
    ({"price": usd("-0.01")}, {"price.value"}),
    ({"price": usd("1000000000.000000001")}, {"price.value"}),
    ({"price": usd("NaN")}, {"price.value"}),
    ({"billing_interval": None}, {"billing_interval"}),
    ({"billing_interval": pb.Interval(count=1)}, {"billing_interval.unit"}),
    ({"billing_interval": interval(pb.INTERVAL_UNIT_MONTH, 0)}, {"billing_interval.count"}),
    ({"billing_interval": interval(pb.INTERVAL_UNIT_DAY, 3_661)}, {"billing_interval.count"}),
    ({"billing_interval": interval(pb.INTERVAL_UNIT_WEEK, 521)}, {"billing_interval.count"}),
    ({"billing_interval": interval(pb.INTERVAL_UNIT_MONTH, 121)}, {"billing_interval.count"}),
    ({"billing_interval": interval(pb.INTERVAL_UNIT_YEAR, 11)}, {"billing_interval.count"}),
    ({"trial": pb.Interval()}, {"trial.unit", "trial.count"}),
    ({"trial": interval(pb.INTERVAL_UNIT_YEAR, 11)}, {"trial.count"}),
    ({"credits": [pb.IncludedCredits()]}, {"credits[0].amount"}),
    ({"credits": [included("0")]}, {"credits[0].amount.value"}),
    ({"credits": [included("-1")]}, {"credits[0].amount.value"}),
    ({"credits": [included("1"), included("2")]}, {"credits[1].amount.currency_code"}),
    ({"credits": [included(priority=1001)]}, {"credits[0].priority"}),
    ({"credits": [included(priority=-1)]}, {"credits[0].priority"}),
    ({"credits": [included(rollover=9)]}, {"credits[0].rollover"}),
    ({"credits": [included(rollover=pb.ROLLOVER_UP_TO)]}, {"credits[0].rollover_max"}),
    ({"credits": [included(rollover_max=credit("200"))]}, {"credits[0].rollover_max"}),
    ({"credits": [included(rollover=pb.ROLLOVER_ALL, rollover_max=credit("200"))]}, {"credits[0].rollover_max"}),
    (
        {"credits": [included(rollover=pb.ROLLOVER_UP_TO, rollover_max=credit("99.999999999"))]},
        {"credits[0].rollover_max.value"},
    ),
    (
        {"credits": [included(rollover=pb.ROLLOVER_UP_TO, rollover_max=usd("200"))]},
        {"credits[0].rollover_max.currency_code"},
    ),
    (
        {"credits": [pb.IncludedCredits(amount=Amount(currency_code=f"C{n}", value="1")) for n in range(17)]},
        {"credits"},
    ),
    ({"entitlements": [feature("")]}, {"entitlements[0].entitlement_code"}),
    ({"entitlements": [feature("API")]}, {"entitlements[0].entitlement_code"}),
    ({"entitlements": [feature("x" * 65)]}, {"entitlements[0].entitlement_code"}),
    ({"entitlements": [feature("a"), feature("b"), limit("a")]}, {"entitlements[2].entitlement_code"}),
    ({"entitlements": [entitled()]}, {"entitlements[0].value"}),
    ({"entitlements": [entitled(number="1e3")]}, {"entitlements[0].number"}),
    ({"entitlements": [entitled(number="0.0000000001")]}, {"entitlements[0].number"}),
    ({"entitlements": [entitled(text="x" * 1025)]}, {"entitlements[0].text"}),
    ({"entitlements": [limit(metric="")]}, {"entitlements[0].limit.metric"}),
    ({"entitlements": [limit(window=0)]}, {"entitlements[0].limit.window"}),
    ({"entitlements": [limit(window=99)]}, {"entitlements[0].limit.window"}),
    ({"entitlements": [limit(value="-1")]}, {"entitlements[0].limit.value"}),
    ({"entitlements": [limit(value="")]}, {"entitlements[0].limit.value"}),
    (
        {"entitlements": [entitled(limit=pb.EntitledLimit(metric="items", window=pb.LIMIT_WINDOW_CALL))]},
        {"entitlements[0].limit.max"},
    ),
    (
        {
            "entitlements": [
                entitled(limit=pb.EntitledLimit(metric="items", window=pb.LIMIT_WINDOW_CALL, unlimited=False))
            ]
        },
        {"entitlements[0].limit.unlimited"},
    ),
    ({"entitlements": [limit(metric="spend")]}, {"entitlements[0].limit.currency_code"}),
    ({"entitlements": [limit(currency_code="USD")]}, {"entitlements[0].limit.currency_code"}),
    ({"entitlements": [limit(metric="spend", currency_code="usd")]}, {"entitlements[0].limit.currency_code"}),
    ({"entitlements": [feature(f"f{n}") for n in range(257)]}, {"entitlements"}),
    ({"past_due": past_due(0)}, {"past_due.retry_after[0]"}),
    ({"past_due": past_due(DAY_S, DAY_S)}, {"past_due.retry_after[1]"}),
    ({"past_due": past_due(2, 3, 1)}, {"past_due.retry_after[2]"}),
    ({"past_due": past_due(90 * DAY_S + 1)}, {"past_due.retry_after[0]"}),
    ({"past_due": past_due(retry_after=[Duration(seconds=1, nanos=1)])}, {"past_due.retry_after[0]"}),
    ({"past_due": past_due(*range(1, 18))}, {"past_due.retry_after"}),
    ({"past_due": past_due(end=7)}, {"past_due.end"}),
    ({"past_due": past_due(end=pb.PAST_DUE_END_CHANGE_PLAN)}, {"past_due.fallback_plan_code"}),
    ({"past_due": past_due(fallback_plan_code="free")}, {"past_due.fallback_plan_code"}),
    (
        {"past_due": past_due(end=pb.PAST_DUE_END_SUSPEND, fallback_plan_code="free")},
        {"past_due.fallback_plan_code"},
    ),
    (
        {"past_due": past_due(end=pb.PAST_DUE_END_CHANGE_PLAN, fallback_plan_code="Free")},
        {"past_due.fallback_plan_code"},
    ),
    (
        {"past_due": past_due(end=pb.PAST_DUE_END_CHANGE_PLAN, fallback_plan_code="nothing")},
        {"past_due.fallback_plan_code"},
    ),
    ({"metadata": {"": "x"}}, {"metadata[]"}),
    ({"metadata": {"k": "x" * 257}}, {"metadata[k]"}),
    ({"metadata": {f"k{n}": "" for n in range(17)}}, {"metadata"}),
]


def bad_terms(change: dict[str, object]) -> pb.PlanTerms:
    """Return good terms with other values in some fields; None leaves a field out."""
    result = terms()
    for name, value in change.items():
        result.ClearField(name)  # type: ignore[arg-type]  # the table names real fields.
        if value is not None:
            result.MergeFrom(pb.PlanTerms(**{name: value}))  # type: ignore[arg-type]
    return result


@pytest.mark.parametrize(("change", "at_fault"), BAD_TERMS)
async def test_terms_that_cannot_be_are_refused_with_every_field_at_fault(
    ledger: Ledger, change: dict[str, object], at_fault: set[str]
) -> None:
    wrong = bad_terms(change)
    free = await found(ledger, "free")
    fields = {f"terms.{field}" for field in at_fault}

    assert (await faults(created(ledger, new_plan(terms=wrong)))).keys() == fields
    for paths in (["terms"], [f"terms.{name}" for name in change]):
        assert (await faults(updated(ledger, update(free, paths, terms=wrong)))).keys() == fields
    assert await listed(ledger, include_inactive=True) == await listed(ledger)
    assert await found(ledger, "free") == free


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"plan_code": ""}, {"plan_code"}),
        ({"plan_code": "Team"}, {"plan_code"}),
        ({"plan_code": "1st"}, {"plan_code"}),
        ({"plan_code": "team\n"}, {"plan_code"}),
        ({"plan_code": "x" * 65}, {"plan_code"}),
        ({"name": ""}, {"name"}),
        ({"name": " \t"}, {"name"}),
        ({"name": "n" * 257}, {"name"}),
        ({"description": "d" * 4097}, {"description"}),
        ({"request_id": "a b"}, {"request_id"}),
        ({"terms": None}, {"terms"}),
        ({"provider_references": [reference("")]}, {"provider_references[0].external_id"}),
        ({"provider_references": [reference("a b")]}, {"provider_references[0].external_id"}),
        ({"provider_references": [reference("x" * 256)]}, {"provider_references[0].external_id"}),
        ({"provider_references": [reference(provider="Stripe")]}, {"provider_references[0].provider"}),
        ({"provider_references": [reference(kind="")]}, {"provider_references[0].kind"}),
        ({"provider_references": [reference("a"), reference("b"), reference("a")]}, {"provider_references[2]"}),
        ({"provider_references": [reference(str(n)) for n in range(33)]}, {"provider_references"}),
        (
            {
                "plan_code": "T",
                "name": " ",
                "terms": pb.PlanTerms(price=usd("-1"), credits=[included("1"), included("1")]),
                "provider_references": [reference(), reference()],
            },
            {
                *("plan_code", "name", "provider_references[1]", "terms.price.value", "terms.billing_interval"),
                "terms.credits[1].amount.currency_code",
            },
        ),
    ],
)
async def test_plan_that_cannot_be_is_refused_with_every_field_at_fault(
    ledger: Ledger, fields: dict[str, object], at_fault: set[str]
) -> None:
    assert (await faults(created(ledger, new_plan(**fields)))).keys() == at_fault  # type: ignore[arg-type]
    assert codes(await listed(ledger, include_inactive=True)) == list(SEEDED)


async def test_bounds_are_inclusive(ledger: Ledger) -> None:
    plan = await found(ledger, "enterprise")
    for unit, count in (
        (pb.INTERVAL_UNIT_DAY, 3_660),
        (pb.INTERVAL_UNIT_WEEK, 520),
        (pb.INTERVAL_UNIT_MONTH, 120),
        (pb.INTERVAL_UNIT_YEAR, 10),
    ):
        good = terms(
            "1000000000",
            billing_interval=interval(unit, count),
            trial=interval(unit, count),
            credits=[
                pb.IncludedCredits(
                    amount=Amount(currency_code=f"C{n}", value="999999999999999.999999999"),
                    rollover=pb.ROLLOVER_UP_TO,
                    rollover_max=Amount(currency_code=f"C{n}", value="999999999999999.999999999"),
                    priority=1000,
                )
                for n in range(16)
            ],
            entitlements=[
                *(entitled(f"f{n}", text="x") for n in range(253)),
                entitled("long", text="\N{FACE WITH TEARS OF JOY}" * 1024),
                entitled("n" * 64, number="-999999999999999.999999999"),
                limit("zero", "0"),
            ],
            past_due=past_due(*range(90 * DAY_S - 15, 90 * DAY_S + 1), end=pb.PAST_DUE_END_SUSPEND),
            metadata={f"{n:064}": "x" * 256 for n in range(16)},
        )
        assert (await updated(ledger, update(plan, ["terms"], terms=good))).draft_version.terms == good


@pytest.mark.parametrize(
    ("paths", "fields", "at_fault"),
    [
        ([], {"name": "x"}, {"update_mask"}),
        (["*"], {}, {"update_mask"}),
        (["plan_code"], {}, {"update_mask"}),
        (["terms.price.value"], {}, {"update_mask"}),
        (["terms.nothing", "name"], {"name": "x"}, {"update_mask"}),
        (["name"], {}, {"name"}),
        (["name"], {"name": " "}, {"name"}),
        (["terms"], {}, {"terms.price", "terms.billing_interval"}),
        (["terms.price"], {}, {"terms.price"}),
        (["provider_references"], {"provider_references": [reference(), reference()]}, {"provider_references[1]"}),
        (["name", "state"], {"plan_id": "P", "name": " "}, {"plan_id", "name", "update_mask"}),
    ],
)
async def test_update_that_cannot_be_made_is_refused_with_every_field_at_fault(
    ledger: Ledger, paths: list[str], fields: dict[str, object], at_fault: set[str]
) -> None:
    before = await found(ledger, "basic")
    request = pb.UpdatePlanRequest(plan_id=before.plan_id, update_mask=FieldMask(paths=paths))
    request.MergeFrom(pb.UpdatePlanRequest(**fields))  # type: ignore[arg-type]

    assert (await faults(updated(ledger, request))).keys() == at_fault
    assert await found(ledger, "basic") == before


async def test_plan_is_named_by_one_of_its_two_names(ledger: Ledger) -> None:
    plan = await found(ledger, "pro")
    for request, at_fault in (
        (pb.GetPlanRequest(), "plan_id"),
        (pb.GetPlanRequest(plan_id=plan.plan_id, plan_code="pro"), "plan_code"),
        (pb.GetPlanRequest(plan_code="pro", version=-1), "version"),
        (pb.GetPlanRequest(plan_id="pro"), "plan_id"),
    ):
        assert (await faults(ledger.plans.GetPlan(request, metadata=ledger.metadata))).keys() == {at_fault}


async def test_odd_requests_are_answered_or_refused_and_fail_no_neighbours_call(
    callers: Callers, database_urls: dict[str, str]
) -> None:
    async with BillingServer(callers, database_urls["billing"]).start() as ledger:
        neighbour = organization()
        await ledger.credit(neighbour, "top-up", "100000")
        plan = await created(ledger, new_plan("odd", terms=everything()))
        halves = [pb.PlanVariant(plan_code=code, weight=1) for code in ("pro", "basic")]
        begin = pb.SetPlanExperimentRequest(plan_code="pro", variants=halves)
        await ledger.plans.SetPlanExperiment(begin, metadata=ledger.metadata)
        requests = {
            "CreatePlan": new_plan(
                request_id="r", provider_references=[reference("of-another")], description="d", terms=everything()
            ),
            "GetPlan": pb.GetPlanRequest(plan_code="odd"),
            "ListPlans": pb.ListPlansRequest(),
            "UpdatePlan": update(
                plan,
                ["name", "description", "active", "sort_order", "provider_references", "terms"],
                name="Odd",
                terms=everything(),
                provider_references=[reference()],
            ),
            "PublishPlanVersion": pb.PublishPlanVersionRequest(plan_id=plan.plan_id, version=1),
            "ArchivePlan": pb.ArchivePlanRequest(plan_id=plan.plan_id),
            "SetPlanExperiment": pb.SetPlanExperimentRequest(plan_code="pro", variants=halves, etag="odd"),
            "GetPlanExperiment": pb.GetPlanExperimentRequest(plan_code="pro"),
            "GetPlanOffer": pb.GetPlanOfferRequest(organization_id=neighbour, user_id=new_id(), plan_code="pro"),
        }
        hostile = HostileCalls(ledger.channel, ledger.metadata)

        async def send_all() -> None:
            for method in methods_of([pb]):
                request = requests[method.name]
                await hostile.send(method, [request, *variants(request)])

        made = await hostile.beside(lambda number: ledger.debit(neighbour, f"call-{number}", "0.01"), send_all())

        assert "\n".join(hostile.failures) == ""
        assert hostile.answered == requests.keys()
        assert made > 1
        assert await ledger.findings() == []
        assert len(await listed(ledger, include_inactive=True, page_size=7)) >= len(SEEDED) + 2
