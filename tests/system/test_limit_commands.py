"""`tollhouse limit`: limits from the command line, and where they stand."""

import asyncio
import json
import signal
import time

import pytest

from libs.cli.terminal.limits import bar
from libs.common.ids import new_id
from tests.system.commands import done, refused
from tests.system.installation import Installation, create_organization
from tollhouse.metering.v1 import model_pb2, model_pb2_grpc, usage_pb2, usage_pb2_grpc
from tollhouse.metering.v1 import quota_pb2 as pb

USER = "0197c5a8-0000-7000-8000-0000000000bb"


def made(installation: Installation, *arguments: str) -> dict[str, object]:
    """Return the JSON object that a command prints."""
    document: dict[str, object] = json.loads(done(installation, *arguments, "--json"))
    return document


def found(installation: Installation, *arguments: str) -> list[dict[str, object]]:
    """Return the list that a command prints as JSON."""
    documents: list[dict[str, object]] = json.loads(done(installation, *arguments, "--json"))
    return documents


async def _organization(installation: Installation) -> str:
    """Return a new organization."""
    async with installation.connection().open() as channels:
        return await create_organization(channels)


async def _use(installation: Installation, organization_id: str, calls: int) -> None:
    """Record calls of the organization."""
    async with installation.connection().open() as channels:
        usage = usage_pb2_grpc.UsageServiceStub(channels.metering)
        models = model_pb2_grpc.ModelServiceStub(channels.metering)
        model = f"limited-{new_id()}"
        await models.CreateModel(model_pb2.CreateModelRequest(model_id=model, request_id=model))
        await models.SetPrice(
            model_pb2.SetPriceRequest(
                model_id=model, currency_code="USD", prices=model_pb2.TokenPrices(input="0", output="0")
            )
        )
        for _ in range(calls):
            await usage.RecordUsage(
                usage_pb2.RecordUsageRequest(
                    organization_id=organization_id,
                    operation_id=new_id(),
                    model=model,
                    user_id=USER,
                    tokens=model_pb2.TokenCounts(input=1),
                )
            )


async def test_limit_is_set_changed_listed_shown_and_deleted(installation: Installation) -> None:
    org = await _organization(installation)
    limit = "limit", "set", org, "week"
    first = made(
        *(installation, *limit, "--metric", "spend", "--currency", "USD", "--per", "week", "--max", "50"),
        *("--zone", "Asia/Tokyo", "--week-start", "sunday", "--scope", "user", "--soft", "--burst", "5", "--replaces"),
        *("--threshold", "80", "--threshold", "100"),
    )
    assert (first["window"], first["week_start"], first["scope"]) == ("LIMIT_WINDOW_WEEK", 7, "LIMIT_SCOPE_USER")
    assert (first["value"], first["enforcement"], first["replaces"]) == ("50", "LIMIT_ENFORCEMENT_SOFT", True)
    (line,) = done(installation, "limit", "list", org).splitlines()[1:]
    shown = "week spend USD week from day 7 Asia/Tokyo each user 50 soft 5 yes 80% 100%"
    assert " ".join(line.split()) == shown
    assert " ".join(done(installation, "limit", "get", org, "week").splitlines()[1].split()) == shown

    changed = made(installation, *limit, "--max", "0.5", "--no-replaces")
    assert (changed["value"], changed["burst"], changed["replaces"]) == ("0.5", "5", False)
    assert made(installation, *limit, "--burst", "0", "--unlimited", "--hard")["unlimited"] is True
    assert " unlimited " in done(installation, "limit", "list", org)
    assert "LIMIT_EXISTS" in refused(installation, 1, *limit, "--metric", "requests", "--per", "day", "--max", "1")
    assert "--yes" in refused(installation, 2, "limit", "delete", org, "week")
    assert "no limit week" in done(installation, "limit", "delete", org, "week", "--yes")
    assert found(installation, "limit", "list", org) == []
    assert "week" in refused(installation, 1, "limit", "get", org, "week")


async def test_limit_that_makes_no_sense_is_refused_in_one_line(installation: Installation) -> None:
    org = await _organization(installation)
    limit = "limit", "set", org, "calls"
    whole = *limit, "--metric", "requests", "--per", "minute"
    assert "--max or --unlimited" in refused(installation, 2, *whole, "--max", "1", "--unlimited")
    assert "Give one of --soft, --shadow" in refused(installation, 2, *whole, "--max", "1", "--soft", "--shadow")
    assert "max: must be given" in refused(installation, 2, *whole)
    assert "time_zone" in refused(installation, 2, *whole, "--max", "1", "--zone", "UTC")
    assert "Give --metric" in refused(installation, 2, *limit)
    assert "give --metric" in refused(installation, 2, *limit, "--per", "day", "--max", "1")
    assert "value" in refused(installation, 2, *whole, "--max=-1")
    foreign = *whole, "--max", "1", "--scope", "user", "--scope-value", USER
    assert "LIMIT_SCOPE_NOT_FOUND" in refused(installation, 1, *foreign)
    assert found(installation, "limit", "list", org) == []


async def test_usage_shows_a_bar_for_each_limit(installation: Installation) -> None:
    org = await _organization(installation)
    limit = "limit", "set", org, "calls"
    done(installation, *limit, "--metric", "requests", "--per", "lifetime", "--max", "4", "--threshold", "50")
    done(
        *(installation, "limit", "set", org, "each", "--metric", "requests", "--per", "month", "--unlimited"),
        *("--scope", "user"),
    )
    await _use(installation, org, 3)

    heading, calls, each = done(installation, "limit", "usage", org).splitlines()
    assert heading.split() == ["name", "for", "usage", "used", "reserved", "max", "remaining", "resets"]
    assert calls.split() == ["calls", "organization", f"[{'#' * 15}{'.' * 5}]", "3", "requests", "0", "4", "1"]
    assert each.split()[:8] == ["each", "user", USER, "3", "requests", "0", "unlimited", each.split()[7]]
    assert each.endswith("00:00:00Z")
    (one,) = found(installation, "limit", "usage", org, "--name", "each")
    assert (one["scope_value"], one["used"]) == (USER, "3")
    names = [one["name"] for one in found(installation, "limit", "usage", org, "--scope", "organization")]
    assert names == ["calls"]
    assert "Give a higher --limit" in installation.command("limit", "usage", org, "--limit", "1").stderr
    heading, alert = done(installation, "limit", "alerts", org).splitlines()
    assert heading.split() == ["time", "name", "for", "reached", "used", "max"]
    assert alert.split()[2:] == ["calls", "organization", "50%", "2", "requests", "4"]


async def test_usage_lists_subscriptions_with_their_limits(installation: Installation) -> None:
    org = await _organization(installation)
    subscription = made(installation, "subscription", "create", org, "free")["subscription_id"]
    done(
        *(installation, "limit", "set", org, "few", "--metric", "requests", "--per", "hour", "--max", "3"),
        *("--scope", "subscription"),
    )
    await _use(installation, org, 3)

    heading, *lines = done(installation, "limit", "usage", org, "--subscriptions", "--name", "few").splitlines()
    assert heading.split()[:6] == ["subscription", "id", "for", "state", "ends", "name"]
    (line,) = lines
    assert line.split()[:6] == [subscription, "organization", "plan", "free", "suspended", "(QUOTA)"]
    assert f"few [{'#' * 20}] 3 requests 0 3 0" in " ".join(line.split())
    filters = "--scope", "subscription", "--scope-value", str(subscription)
    (one,) = found(installation, "limit", "usage", org, "--subscriptions", *filters)
    assert (one["state"], one["billing_state"]) == ("SUBSCRIPTION_STATE_SUSPENDED", "SUBSCRIPTION_STATE_ACTIVE")
    assert "scope" in refused(installation, 2, "limit", "usage", org, "--subscriptions", "--scope", "project")


async def test_usage_is_shown_again_until_it_is_interrupted(installation: Installation) -> None:
    org = await _organization(installation)
    done(installation, "limit", "set", org, "calls", "--metric", "requests", "--per", "lifetime", "--max", "4")
    process = installation.start_command("limit", "usage", org, "--watch")
    assert process.stdout is not None
    lines, began_s = [], 0.0
    for _ in range(3):
        lines += [await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 30) for _ in range(2)]
        began_s = began_s or time.monotonic()
    took_s = time.monotonic() - began_s
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)

    assert [line.split()[0] for line in lines] == ["name", "calls"] * 3
    # Two pauses of a second, of which the first has begun when its line is read.
    assert took_s > 1
    assert process.returncode == 130, errors
    assert "Traceback" not in errors


async def test_alerts_are_shown_once_each_as_they_come(installation: Installation) -> None:
    org = await _organization(installation)
    limit = "limit", "set", org, "calls", "--metric", "requests", "--per", "lifetime", "--max", "4"
    done(installation, *limit, "--threshold", "25", "--threshold", "50", "--threshold", "100")
    await _use(installation, org, 1)
    process = installation.start_command("limit", "alerts", org, "--watch")
    assert process.stdout is not None
    lines: list[str] = []
    for calls, count in ((0, 2), (1, 1), (2, 1)):
        await _use(installation, org, calls)
        lines += [await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 30) for _ in range(count)]
    await asyncio.sleep(2.5)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=20)

    assert lines[0].split() == ["time", "name", "for", "reached", "used", "max"]
    shown = [line.split()[2:] for line in lines[1:]]
    assert shown == [["calls", "organization", f"{25 * used}%", str(used), "requests", "4"] for used in (1, 2, 4)]
    assert rest == ""
    assert process.returncode == 130, errors


@pytest.mark.parametrize(
    ("maximum", "used", "reserved", "expected"),
    [
        ("100", "0", "0", "[..........]"),
        ("100", "50", "0", "[#####.....]"),
        ("100", "50", "30", "[#####===..]"),
        ("100", "99.9", "0", "[#########.]"),
        ("100", "0.001", "0", "[#.........]"),
        ("100", "0", "0.001", "[=.........]"),
        ("100", "100", "0", "[##########]"),
        ("100", "60", "90", "[######====]"),
        ("100", "250", "10", "[##########]"),
        ("0", "0", "0", "[..........]"),
        ("0", "1", "0", "[##########]"),
        ("", "7", "0", ""),
    ],
)
def test_bar_is_as_full_as_the_limit(maximum: str, used: str, reserved: str, expected: str) -> None:
    assert bar(pb.LimitStatus(max=maximum, used=used, reserved=reserved), 10) == expected
