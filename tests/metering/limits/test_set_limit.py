"""Limits are set, changed, listed and deleted; what they count never changes."""

import asyncio
import time
from decimal import Decimal

import grpc
import pytest

from libs.common.ids import new_id
from libs.common.shards import open_shards
from services.metering.quota.book import LimitBook
from tests.metering.limits.support_rpc import (
    DAY,
    HARD,
    MODEL,
    MONTH,
    ORGANIZATION,
    SHADOW,
    SOFT,
    USER,
    WEEK,
    change_limit,
    delete_limit,
    get_limit,
    limits_of,
    set_limit,
    usage_of,
)
from tests.metering.support import Metering, Platform, eventually, refused
from tests.metering.test_audit import after, events
from tests.support.sharded import SHARDS
from tollhouse.common.v1 import audit_pb2
from tollhouse.metering.v1 import quota_pb2 as pb

STALE = (grpc.StatusCode.ABORTED, "STALE_ETAG")
EXISTS = (grpc.StatusCode.ALREADY_EXISTS, "LIMIT_EXISTS")
MISSING = (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_limit_is_read_as_it_was_set(metering: Metering, organization_id: str) -> None:
    made = await set_limit(
        metering,
        organization_id.upper(),
        "spend-of.month_1",
        metric="spend",
        currency_code="USD",
        window=MONTH,
        time_zone="Asia/Tokyo",
        scope=MODEL,
        scope_value="gpt-4o",
        value="0050.500",
        enforcement=SOFT,
        burst="12.5",
        replaces=True,
        thresholds=[100, 80],
    )

    assert made == await get_limit(metering, organization_id, "spend-of.month_1")
    assert (made.limit_id != "", made.etag != "", made.create_time) == (True, True, made.update_time)
    for field in ("limit_id", "etag", "create_time", "update_time"):
        made.ClearField(field)
    assert made == pb.Limit(
        organization_id=organization_id,
        name="spend-of.month_1",
        metric="spend",
        currency_code="USD",
        window=MONTH,
        time_zone="Asia/Tokyo",
        scope=MODEL,
        scope_value="gpt-4o",
        value="50.5",
        enforcement=SOFT,
        burst="12.5",
        replaces=True,
        thresholds=[80, 100],
    )


async def test_what_is_not_said_is_said_in_the_limit(metering: Metering, organization_id: str) -> None:
    minute = await set_limit(metering, organization_id, "minute")
    week = await set_limit(metering, organization_id, "week", window=WEEK)
    day = await set_limit(metering, organization_id, "day", window=DAY, sliding=True)

    assert (minute.scope, minute.enforcement, minute.burst) == (ORGANIZATION, HARD, "")
    assert (minute.time_zone, minute.week_start) == ("", 0)
    assert (week.time_zone, week.week_start) == ("UTC", 1)
    assert (day.time_zone, day.sliding) == ("", True)
    assert await set_limit(metering, organization_id, "week", window=WEEK, time_zone="UTC", week_start=1) == week


async def test_repeat_changes_nothing_and_leaves_one_event(metering: Metering, organization_id: str) -> None:
    first = await set_limit(metering, organization_id, thresholds=[50, 100])

    assert await set_limit(metering, organization_id, thresholds=[100, 50], value="100.0") == first
    assert await change_limit(metering, organization_id, "requests", value="100") == first
    (event,) = await events(metering, organization_id, resource_type="limit", resource_id="requests")
    assert (event.action, event.actor) == ("SetLimit", "operator:alice")
    assert after(event) == {
        "limit_id": first.limit_id,
        "metric": "requests",
        "window": "MINUTE",
        "sliding": "false",
        "scope": "ORGANIZATION",
        "max": "100",
        "enforcement": "HARD",
        "burst": "0",
        "replaces": "false",
        "thresholds": "50 100",
    }


async def test_set_without_a_mask_sets_all_terms_as_given(metering: Metering, organization_id: str) -> None:
    first = await set_limit(metering, organization_id, enforcement=SHADOW, burst="5", replaces=True, thresholds=[80])
    second = await set_limit(metering, organization_id, value="7")

    assert (second.value, second.enforcement, second.burst, second.replaces) == ("7", HARD, "", False)
    assert list(second.thresholds) == []
    assert (second.limit_id, second.create_time) == (first.limit_id, first.create_time)
    assert second.etag != first.etag
    assert _changes((await events(metering, organization_id))[-1]) == {
        "max": ("100", "7"),
        "enforcement": ("SHADOW", "HARD"),
        "burst": ("5", "0"),
        "replaces": ("true", "false"),
        "thresholds": ("80", ""),
    }


async def test_mask_changes_what_it_names_and_looks_at_nothing_else(metering: Metering, organization_id: str) -> None:
    await set_limit(metering, organization_id, enforcement=SOFT, thresholds=[80])
    changed = await change_limit(
        metering, organization_id, "requests", "max", value="0", enforcement=SHADOW, metric="items", thresholds=[7]
    )

    assert (changed.value, changed.enforcement, list(changed.thresholds)) == ("0", SOFT, [80])
    assert changed.metric == "requests"
    reset = await change_limit(metering, organization_id, "requests", "enforcement", "thresholds")
    assert (reset.value, reset.enforcement, list(reset.thresholds)) == ("0", HARD, [])


async def test_maximum_that_is_cleared_by_the_mask_allows_any_amount_and_null_and_zero_differ(
    metering: Metering, organization_id: str
) -> None:
    await set_limit(metering, organization_id, value="0")
    (closed,) = await usage_of(metering, organization_id)
    kept = await change_limit(metering, organization_id, "requests", "enforcement")
    cleared = await change_limit(metering, organization_id, "requests", "max")
    (open_,) = await usage_of(metering, organization_id)

    assert (closed.max, closed.remaining) == ("0", "0")
    assert (kept.value, kept.unlimited) == ("0", False)
    assert (cleared.WhichOneof("max"), cleared.unlimited) == ("unlimited", True)
    assert (open_.max, open_.remaining) == ("", "")
    assert await set_limit(metering, organization_id, unlimited=True) == cleared


@pytest.mark.parametrize(
    ("fields", "differing"),
    [
        ({"metric": "input_tokens"}, "metric"),
        ({"metric": "spend", "currency_code": "EUR"}, "currency_code"),
        ({"window": pb.LIMIT_WINDOW_HOUR, "time_zone": None}, "window"),
        ({"sliding": True, "time_zone": None}, "sliding"),
        ({"time_zone": "UTC"}, "time_zone"),
        ({"scope": MODEL}, "scope"),
        ({"scope": USER, "scope_value": ""}, "scope"),
    ],
)
async def test_what_a_limit_counts_never_changes(
    metering: Metering, organization_id: str, fields: dict[str, object], differing: str
) -> None:
    shape: dict[str, object] = {"window": DAY, "time_zone": "Asia/Tokyo"}
    if "currency_code" in fields:
        shape |= {"metric": "spend", "currency_code": "USD"}
    first = await set_limit(metering, organization_id, **shape)

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await set_limit(metering, organization_id, **{**shape, **fields})
    assert (error.value.code(), f"another {differing};" in str(error.value.details())) == (EXISTS[0], True)
    assert await get_limit(metering, organization_id) == first


async def test_scope_value_week_and_label_never_change_either(metering: Metering, organization_id: str) -> None:
    await set_limit(metering, organization_id, "week", window=WEEK, week_start=7)
    await set_limit(metering, organization_id, "label", scope=pb.LIMIT_SCOPE_LABEL, label="team", scope_value="a")

    label = {"scope": pb.LIMIT_SCOPE_LABEL, "label": "team"}
    assert await refused(set_limit(metering, organization_id, "week", window=WEEK)) == EXISTS
    assert await refused(set_limit(metering, organization_id, "label", scope_value="b", **label)) == EXISTS
    assert (
        await refused(set_limit(metering, organization_id, "label", scope_value="a", **{**label, "label": "Team"}))
        == EXISTS
    )


async def test_stale_etag_is_refused_and_a_right_one_is_taken_once(metering: Metering, organization_id: str) -> None:
    for etag in ("0", "no etag"):
        assert await refused(set_limit(metering, organization_id, etag=etag)) == STALE
    first = await set_limit(metering, organization_id)
    second = await set_limit(metering, organization_id, value="7", etag=first.etag)

    assert await refused(set_limit(metering, organization_id, value="8", etag=first.etag)) == STALE
    assert await refused(change_limit(metering, organization_id, "requests", value="8", etag=first.etag)) == STALE
    assert await refused(delete_limit(metering, organization_id, etag=first.etag)) == STALE
    assert await get_limit(metering, organization_id) == second
    await delete_limit(metering, organization_id, etag=second.etag)
    assert await refused(get_limit(metering, organization_id)) == MISSING


async def test_mask_without_a_limit_is_not_found(metering: Metering, organization_id: str) -> None:
    assert await refused(change_limit(metering, organization_id, "requests", value="8")) == MISSING
    assert await limits_of(metering, organization_id) == []


async def test_deleting_a_limit_again_changes_nothing_and_a_new_one_is_another(
    metering: Metering, organization_id: str
) -> None:
    first = await set_limit(metering, organization_id)
    for _ in range(2):
        await delete_limit(metering, organization_id, etag=first.etag)

    assert await limits_of(metering, organization_id) == []
    second = await set_limit(metering, organization_id, window=DAY)
    assert second.limit_id != first.limit_id
    actions = [(event.action, _changes(event)["max"]) for event in await events(metering, organization_id)]
    assert actions == [("SetLimit", ("", "100")), ("DeleteLimit", ("100", "")), ("SetLimit", ("", "100"))]


async def test_limits_are_listed_in_the_order_of_their_names_in_pages(metering: Metering, organization_id: str) -> None:
    names = [f"limit-{number}" for number in range(20)]
    for name in reversed(names):
        await set_limit(metering, organization_id, name)

    for page_size in (1, 7, 20, 1000):
        found = await limits_of(metering, organization_id, page_size)
        assert [one.name for one in found] == sorted(names)
    request = pb.ListLimitsRequest(organization_id=organization_id, page_size=20)
    assert (await metering.quota.ListLimits(request, metadata=metering.operator)).next_page_token == ""
    request.page_size = 19
    request.page_token = (await metering.quota.ListLimits(request, metadata=metering.operator)).next_page_token
    other = pb.ListLimitsRequest(organization_id=new_id(), page_token=request.page_token)
    answer = await refused(metering.quota.ListLimits(other, metadata=metering.operator))
    assert answer == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


async def test_limits_of_two_organizations_have_nothing_to_do_with_each_other(metering: Metering) -> None:
    mine, yours = new_id(), new_id()
    first = await set_limit(metering, mine, value="1")
    second = await set_limit(metering, yours, window=DAY, value="2")

    assert await limits_of(metering, mine) == [first]
    assert await limits_of(metering, yours) == [second]
    assert [one.limit_id for one in await usage_of(metering, yours)] == [second.limit_id]
    await delete_limit(metering, mine)
    assert await get_limit(metering, yours) == second
    assert await refused(get_limit(metering, mine)) == MISSING
    assert await refused(get_limit(metering, new_id())) == MISSING


async def test_equal_limits_set_at_once_are_one_limit_with_one_event(metering: Metering, organization_id: str) -> None:
    made = await asyncio.gather(*(set_limit(metering, organization_id) for _ in range(12)))

    assert len({one.limit_id for one in made}) == len({one.etag for one in made}) == 1
    assert len(await events(metering, organization_id)) == 1


async def test_of_limits_of_one_name_and_other_shapes_set_at_once_one_is_made(
    metering: Metering, organization_id: str
) -> None:
    metrics = ("requests", "items", "total_tokens", "input_tokens", "output_tokens", "images")
    outcomes = await asyncio.gather(
        *(set_limit(metering, organization_id, metric=metric) for metric in metrics), return_exceptions=True
    )

    made = [one for one in outcomes if isinstance(one, pb.Limit)]
    others = [one for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
    assert (len(made), len(others)) == (1, len(metrics) - 1)
    assert {one.code() for one in others} == {EXISTS[0]}
    assert await limits_of(metering, organization_id) == made


async def test_of_changes_with_one_etag_at_once_one_is_made(metering: Metering, organization_id: str) -> None:
    etag = (await set_limit(metering, organization_id)).etag
    outcomes = await asyncio.gather(
        *(set_limit(metering, organization_id, value=str(number), etag=etag) for number in range(8)),
        return_exceptions=True,
    )

    assert sum(isinstance(one, pb.Limit) for one in outcomes) == 1


async def test_sets_and_deletions_at_once_end_as_one_of_them_said(metering: Metering, organization_id: str) -> None:
    calls = [
        delete_limit(metering, organization_id) if number % 3 == 0 else set_limit(metering, organization_id, value="1")
        for number in range(30)
    ]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)

    failed = [one for one in outcomes if isinstance(one, BaseException)]
    assert all(isinstance(one, grpc.aio.AioRpcError) and one.code() is STALE[0] for one in failed), failed
    assert [one.value for one in await limits_of(metering, organization_id)] in ([], ["1"])
    assert await metering.findings() == []


async def test_organization_has_a_thousand_limits_at_most_however_many_are_set_at_once(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await set_limit(metering, organization_id, "a")
    await platform.execute(
        """INSERT INTO metering.limits SELECT organization_id, gen_random_uuid(), 'b' || number, metric, currency_code,
            "window", sliding, time_zone, week_start, scope, scope_value, label, maximum, enforcement, burst, replaces,
            thresholds, revision, create_time, update_time
        FROM metering.limits, generate_series(1, 997) AS number WHERE name = 'a'"""
    )

    outcomes = await asyncio.gather(
        *(set_limit(metering, organization_id, f"c{number}") for number in range(8)), return_exceptions=True
    )

    failed = [one for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
    assert len(failed) == 6
    assert {one.code() for one in failed} == {grpc.StatusCode.FAILED_PRECONDITION}
    assert len(await limits_of(metering, organization_id, 400)) == 1_000
    assert len(await usage_of(metering, organization_id, 400)) == 1_000
    answer = await refused(set_limit(metering, organization_id, "one-more"))
    assert answer == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_LIMITS")
    assert (await set_limit(metering, organization_id, "a", value="5")).value == "5"
    await delete_limit(metering, organization_id, "a")
    await set_limit(metering, organization_id, "one-more")
    await set_limit(metering, new_id(), "of-another-organization")


async def test_change_is_known_to_another_process_within_two_seconds(
    metering: Metering, organization_id: str, database_urls: dict[str, str]
) -> None:
    shards = open_shards(database_urls["metering"], schema="metering", count=SHARDS)
    book = LimitBook(shards)

    async def maximum() -> Decimal | None:
        known = (await book.of([organization_id]))[organization_id]
        assert not isinstance(known, Exception)
        return known[0].terms.maximum

    try:
        await set_limit(metering, organization_id, value="5")
        await book.look(shards.of(organization_id))
        assert await maximum() == 5
        await set_limit(metering, organization_id, value="6")
        assert await maximum() == 5
        began_s, watching = time.monotonic(), asyncio.create_task(book.watch())
        await eventually(maximum, lambda value: value == 6)
        assert time.monotonic() - began_s < 2
        watching.cancel()
    finally:
        await shards.close()


def _changes(event: audit_pb2.AuditEvent) -> dict[str, tuple[str, str]]:
    return {change.field: (change.before, change.after) for change in event.changes}
