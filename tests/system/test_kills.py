"""Metering and billing kill themselves at each named point of a metered call, and everything agrees afterwards."""

import asyncio
import json
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final

import grpc
import pytest

from libs.cli.installation.environment import repository
from libs.common.ports import free_port
from tests.metering.support import Platform, eventually
from tests.support.callers import Callers as CallersOfServices
from tests.support.clock import ShiftedClock
from tests.support.kills import KILLS_AT_EACH_POINT
from tests.system.kill_load import PRICE_IN, Callers, Organizations, Told
from tests.system.kill_points import BILLING, METERING, Kind, Point
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.metering.v1 import quota_pb2 as pb

SEED: Final = int(os.environ.get("TOLLHOUSE_TEST_SEED", "20231116"))
PROCESSES: Final = 3
"""How many processes of metering there are at a time."""
CALLERS: Final = 5
"""How many calls of each are under way."""
TIGHT: Final = 150
_ZERO: Final = Decimal(0)
FUNDS: Final = Decimal(1000)
_LEASES_ARE_OVER: Final = timedelta(hours=2)
_UNDER_WAY: Final = (
    "SELECT array_agg(to_jsonb(o)::text) FROM metering.outbox AS o",
    "SELECT array_agg(to_jsonb(l)::text) FROM metering.lapse_checks AS l",
    "SELECT array_agg(to_jsonb(l)::text) FROM metering.quota_leases AS l",
    "SELECT array_agg(to_jsonb(h)::text) FROM billing.holds AS h WHERE state = 'OPEN'",
)
"""What is left to be done."""
_REACHED_WITHIN_S: Final = 40.0
_CALLS_END_WITHIN_S: Final = 6.0
_ONCE_ONLY: Final = ("CheckOrganizations", "Lapses", "Relay", "flush", "_end")
"""Parts of the names of points that a process reaches a few times a second at most."""


class Process:
    """A service that is started again whenever it has killed itself."""

    def __init__(self, context: str, environment: dict[str, str], log: Path) -> None:
        self.kind = Kind.SETTLE
        self._context = context
        self._environment = environment
        self._log = log
        self._target = f"127.0.0.1:{environment[f'TOLLHOUSE_{context.upper()}_PORT']}"
        self._ready = asyncio.Event()
        self._channel: grpc.aio.Channel
        self._closing: list[asyncio.Task[None]] = []
        self._forking: asyncio.subprocess.Process

    async def open(self) -> None:
        """Start the process that forks the others."""
        self._forking = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.system.dying_services", self._context),
            cwd=repository(),
            env=os.environ | {"PYTHONPATH": f"{repository()}:{repository() / 'protos'}"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert (await self._event())["event"] == "imported"

    async def channel(self) -> grpc.aio.Channel:
        """Return a channel to the service, when it is ready."""
        await self._ready.wait()
        return self._channel

    async def run(self, point: str, visits: int = 1) -> str:
        """Start the service; return at which point it has killed itself, when that has happened.

        Raises:
            AssertionError: it has ended otherwise, or not in time.
        """
        await self._start(point, visits)
        try:
            async with asyncio.timeout(_REACHED_WITHIN_S):
                ended = await self._ended()
        except TimeoutError:
            raise AssertionError(f"`{point}` is not reached: {self._end_of_log()}") from None
        assert ended["signal"] == 9, f"it has ended by itself: {self._end_of_log()}"
        return str(ended["point"])

    async def run_on(self) -> None:
        """Start the service for good."""
        await self._start("", 0)
        await self._ready.wait()

    async def close(self) -> None:
        """End the service and what forks it."""
        assert self._forking.stdin is not None
        self._forking.stdin.close()
        await self._forking.wait()
        await asyncio.gather(*self._closing)

    async def _start(self, point: str, visits: int) -> None:
        assert self._forking.stdin is not None
        command = {"point": point, "visits": visits, "environment": self._environment, "log": str(self._log)}
        self._forking.stdin.write(json.dumps(command).encode() + b"\n")
        assert (await self._event())["event"] == "started"
        if not point:
            event = await self._event()
            assert event["event"] == "ready", self._end_of_log()
            await self._note_ready()

    async def _ended(self) -> dict[str, object]:
        while (event := await self._event())["event"] != "ended":
            await self._note_ready()
        if self._ready.is_set():
            self._ready.clear()
            # What is under way fails by itself. A call on a channel that is closed at once would be cancelled.
            self._closing.append(asyncio.create_task(self._channel.close(_CALLS_END_WITHIN_S)))
        return event

    async def _note_ready(self) -> None:
        self._channel = grpc.aio.insecure_channel(self._target)
        self._ready.set()

    async def _event(self) -> dict[str, object]:
        assert self._forking.stdout is not None
        line = await self._forking.stdout.readline()
        assert line, f"it could not be started: {self._end_of_log()}"
        event: dict[str, object] = json.loads(line)
        return event

    def _end_of_log(self) -> str:
        return self._log.read_text()[-4_000:] if self._log.exists() else ""


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
async def platform(
    database_urls: dict[str, str],
    database_admin_url: str,
    tmp_path: Path,
    clock: ShiftedClock,
) -> AsyncIterator[Platform]:
    callers = CallersOfServices(tmp_path, clock)
    platform = Platform(callers, database_urls, database_admin_url, tmp_path, clock)
    platform.lapses_every_s = 0.1
    try:
        await platform.start()
        await platform.start_identity()
        await platform.metering.add_model()
        await platform.metering.set_price()
        yield platform
    finally:
        await platform.close()


async def _organizations(platform: Platform) -> Organizations:
    """Make the organizations whose calls are made, with money and limits."""
    identity = platform.identity
    (rich, owner), (poor, _), (tight, _) = [await identity.create_organization() for _ in range(3)]
    key = await identity.create_key(api_key_pb2.CreateApiKeyRequest(organization_id=rich, user_id=owner))
    for organization_id in (rich, tight):
        await platform.fund(organization_id, str(FUNDS))
    much = "1000000000"
    for organization_id, requests in ((rich, much), (poor, much), (tight, str(TIGHT))):
        await _limit(platform, organization_id, "requests", requests, metric="requests")
        await _limit(platform, organization_id, "tokens", much, metric="total_tokens")
        await _limit(platform, organization_id, "spend", much, metric="spend", currency_code="USD")
        await _limit(platform, organization_id, "items", much, metric="items")
        await _limit(platform, organization_id, "places", "100000", metric="concurrent_calls")
    label = {"scope": pb.LIMIT_SCOPE_LABEL, "label": "once", "enforcement": pb.LIMIT_ENFORCEMENT_SOFT}
    await _limit(platform, rich, "once", "1", metric="requests", thresholds=[100], **label)
    await _limit(platform, rich, "items-once", "3", metric="items", thresholds=[50, 100], **label)
    return Organizations(rich, poor, tight, key.secret)


async def _limit(platform: Platform, organization_id: str, name: str, maximum: str, **fields: object) -> None:
    request = pb.SetLimitRequest(organization_id=organization_id, name=name, value=maximum, **fields)  # type: ignore[arg-type]
    if request.metric != "concurrent_calls":
        request.window = pb.LIMIT_WINDOW_LIFETIME
    await platform.metering.quota.SetLimit(request, metadata=platform.metering.operator)


@asynccontextmanager
async def _processes(platform: Platform, tmp_path: Path) -> AsyncIterator[tuple[list[Process], Process]]:
    """Run what forks metering and billing; yield the processes of metering, and that of billing."""
    metering = [
        Process("metering", _metering_settings(platform, free_port()), tmp_path / f"metering-{number}.log")
        for number in range(PROCESSES)
    ]
    billing = Process("billing", _settings(platform, "billing", platform.billing_port), tmp_path / "billing.log")
    processes = [*metering, billing]
    await asyncio.gather(*(process.open() for process in processes))
    try:
        yield metering, billing
    finally:
        await asyncio.gather(*(process.close() for process in processes))


def _settings(platform: Platform, context: str, port: int) -> dict[str, str]:
    prefix = f"TOLLHOUSE_{context.upper()}_"
    return {
        f"{prefix}DATABASE_URL": platform.urls[context],
        f"{prefix}TRUST_BUNDLE_FILE": str(platform.callers.bundle_file),
        f"{prefix}PORT": str(port),
        f"{prefix}REFLECTION": "false",
        # A process does not live long enough to make use of more connections.
        f"{prefix}POOL_SIZE": "4",
    }


def _metering_settings(platform: Platform, port: int) -> dict[str, str]:
    more = {
        "SIGNING_KEY_FILE": str(platform.callers.signing_key_file("metering", platform.folder)),
        "BILLING_TARGET": f"127.0.0.1:{platform.billing_port}",
        "IDENTITY_TARGET": f"127.0.0.1:{platform.identity_port}",
        "KEY_ANSWER_TTL_S": "0",
        "RELAY_AFTER_S": "0.1",
        "RELAY_EVERY_S": "0.05",
        "LAPSES_EVERY_S": "0.1",
    }
    return _settings(platform, "metering", port) | {f"TOLLHOUSE_METERING_{name}": value for name, value in more.items()}


async def _work_off(process: Process, points: Sequence[Point], killed: Counter[Point], chance: random.Random) -> None:
    """Let a process kill itself at one point after another, and run for good then."""
    for point in points:
        process.kind = point.kind
        visits = 1 if any(part in point.name for part in _ONCE_ONLY) else chance.randint(1, 3)
        assert await process.run(point.name, visits) == point.name
        killed[point] += 1
    process.kind = Kind.SETTLE
    await process.run_on()


def _shared_out(points: Sequence[Point], processes: int, chance: random.Random) -> list[list[Point]]:
    """Return for each process at which points it dies, in a random order: at each point as often as is wanted."""
    all_points = list(points) * KILLS_AT_EACH_POINT
    chance.shuffle(all_points)
    return [all_points[number::processes] for number in range(processes)]


async def _until_quiet(platform: Platform) -> None:
    """Wait until no charge, reservation, lease or hold is left to be looked at."""
    for query in _UNDER_WAY:
        try:
            await eventually(lambda query=query: platform.value(query), lambda found: found is None)  # type: ignore[misc]
        except AssertionError:
            raise AssertionError(f"this stays: {await platform.value(query)}") from None


async def _assert_counted(platform: Platform, organizations: Organizations, told: Told) -> None:
    """Every counter has what callers were told, and nothing is reserved."""
    for organization_id in (organizations.rich, organizations.poor, organizations.tight):
        used = told.used(organization_id)
        items = sum(told.items.values()) if organization_id == organizations.rich else 0
        assert await _counted(platform, organization_id) == {
            "requests": (Decimal(len(used)), _ZERO),
            "tokens": (Decimal(sum(used)), _ZERO),
            "spend": (told.cost(organization_id), _ZERO),
            "items": (Decimal(items), _ZERO),
            "places": (_ZERO, _ZERO),
        }
    assert len(told.used(organizations.tight)) <= TIGHT
    assert not told.used(organizations.poor)


async def _counted(platform: Platform, organization_id: str) -> dict[str, tuple[Decimal, Decimal]]:
    """Return what is used and reserved of each limit of an organization as a whole."""
    request = pb.GetUsageAgainstLimitsRequest(organization_id=organization_id, scope=pb.LIMIT_SCOPE_ORGANIZATION)
    page = await platform.metering.quota.GetUsageAgainstLimits(request, metadata=platform.metering.operator)
    return {one.name: (Decimal(one.used), Decimal(one.reserved)) for one in page.limits}


async def _assert_charged_once(platform: Platform, organizations: Organizations, told: Told) -> None:
    """Every usage that callers were told is recorded once and charged once; nothing else is, and no money is held."""
    charges = await platform.billing_charges()
    for (organization_id, operation_id), tokens in told.tokens.items():
        if operation_id not in told.parts:
            assert charges.pop((organization_id, operation_id)) == tokens * PRICE_IN
    in_parts = [tokens for (_, operation_id), tokens in told.tokens.items() if operation_id in told.parts]
    assert sum(charges.values()) == sum(in_parts) * PRICE_IN
    assert await platform.value("SELECT count(*) FROM metering.usage_records") == len(told.tokens)
    for organization_id in (organizations.rich, organizations.tight):
        assert await platform.posted(organization_id) == FUNDS - told.cost(organization_id)
    assert await platform.value("SELECT coalesce(sum(held), 0) FROM billing.accounts") == 0


async def _alerts(platform: Platform, organization_id: str) -> Counter[tuple[str, str, int]]:
    """Return the alerts of an organization: the limit, for whom, and the threshold."""
    request = pb.ListLimitAlertsRequest(organization_id=organization_id, page_size=1000)
    found: Counter[tuple[str, str, int]] = Counter()
    while True:
        page = await platform.metering.quota.ListLimitAlerts(request, metadata=platform.metering.operator)
        found.update((one.name, one.scope_value, one.threshold) for one in page.alerts)
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


def _expected_alerts(organization_id: str, told: Told) -> Counter[tuple[str, str, int]]:
    """Return the alerts that are due: each call has limits of its own, which it reaches."""
    of_calls = [("once", operation_id, 100) for owner, operation_id in told.tokens if owner == organization_id]
    of_items = [("items-once", operation_id, percent) for operation_id in told.items for percent in (50, 100)]
    return Counter([*of_calls, *of_items])


@pytest.mark.shards
@pytest.mark.timeout(1200)
async def test_counters_holds_usage_and_ledger_agree_after_kills_at_every_point_of_a_metered_call(
    platform: Platform, clock: ShiftedClock, tmp_path: Path
) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    organizations = await _organizations(platform)
    metadata = platform.metering.gateway
    await platform.stop_metering()
    await platform.stop_billing()
    killed: Counter[Point] = Counter()
    async with _processes(platform, tmp_path) as (metering, billing):
        callers = Callers(metering, organizations, metadata, platform.metering.operator, chance)
        callers.beside = [point.kind for point in BILLING]
        schedules = _shared_out(METERING, PROCESSES, chance) + _shared_out(BILLING, 1, chance)
        async with asyncio.TaskGroup() as group:
            dying = [
                group.create_task(_work_off(process, points, killed, chance))
                for process, points in zip([*metering, billing], schedules, strict=True)
            ]
            for process in metering * CALLERS:
                group.create_task(callers.call(process))
            await asyncio.gather(*dying)
            callers.stop()
    assert killed == Counter(dict.fromkeys((*METERING, *BILLING), KILLS_AT_EACH_POINT))
    print(f"{killed.total()} kills, {callers.told.answers} answers, {callers.told.repeats} repeats")
    # What nobody repeats lapses, and what a dead process had taken under a lease is taken by another one.
    clock.advance(_LEASES_ARE_OVER)
    await platform.start_billing()
    await platform.start_metering()
    await _until_quiet(platform)
    await _assert_counted(platform, organizations, callers.told)
    await _assert_charged_once(platform, organizations, callers.told)
    assert await _alerts(platform, organizations.rich) == _expected_alerts(organizations.rich, callers.told)
    assert await platform.verify() == []
