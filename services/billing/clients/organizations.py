"""Follows the organizations of identity, and hands each new or changed one to a handler.

How far it has come is stored in billing's own schema, after everything before was handled. So a crash repeats some
organizations and loses none, and a handler must be able to handle an organization again.

One process follows at a time: the one that has the lease, which it renews every second. When it ends or hangs, another
one takes the lease within seconds and goes on from the stored position. Every transaction first makes sure that the
lease is still this process's. Only the handling itself may overlap with another process's, if this process stops for
seconds and then goes on.

An organization that cannot be handled is set aside in a table, with the reason, and tried again at growing intervals.
It keeps no other from being handled. If thousands are set aside, something is wrong with all of them, and no more are
taken in until some were handled.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, NoReturn

import grpc
import structlog

from libs.common.clock import Clock
from libs.common.database import Database, RawConnection
from libs.common.deadline import STREAM_LIFE_S, leave_deadline
from libs.common.errors import Refusal
from libs.common.ids import new_id
from libs.common.text import storable
from libs.common.timestamps import parse_optional_time, parse_time
from services.billing.clients import position_store as store
from services.billing.clients.position_store import Organization as Organization
from services.billing.clients.position_store import Unhandled
from tollhouse.identity.v1 import organization_pb2 as pb
from tollhouse.identity.v1 import organization_pb2_grpc as rpc

_log = structlog.get_logger("organizations")

LEASE_S: Final = 4.0
_RENEW_EVERY_S: Final = 1.0
_WATCH_AGAIN_AFTER_S: Final = 0.2
_WATCH_AGAIN_AFTER_MAX_S: Final = 5.0
_SILENCE_MAX_S: Final = 10.0
"""Identity sends something every second; after so long without anything the stream is taken as broken."""
_STREAM_MAX_S: Final = STREAM_LIFE_S + 60
_HANDLED_AT_ONCE: Final = 16
_HANDLE_WITHIN_S: Final = 10.0
_RETRY_ROUND_S: Final = 1.0
_RETRY_FIRST_S: Final = 5.0
_RETRY_MAX_S: Final = 3_600.0
_DOUBLINGS_MAX: Final = 10
UNHANDLED_MAX: Final = 10_000
_REASON_CHARS_MAX: Final = 500
_REASONS_LOGGED_MAX: Final = 5

OnOrganization = Callable[[Organization], Awaitable[None]]
"""Handles an organization that was created, changed or deleted. It may be called again with the same one, and must not
depend on the order of different ones. Whatever it raises is stored as the reason why it is tried again."""


class LeaseLost(Exception):
    """Another process follows now, or this one could not renew its lease in time."""


class TooManyUnhandled(Exception):
    """So many organizations are set aside that no more are taken in."""


class OrganizationWatch:
    """Follows identity's organizations as long as the process runs."""

    def __init__(
        self, channel: grpc.aio.Channel, database: Database, clock: Clock, on_organization: OnOrganization
    ) -> None:
        """Prepare to follow; `database` is billing's own schema."""
        self._organizations: rpc.OrganizationServiceStub = rpc.OrganizationServiceStub(channel)
        self._database = database
        self._clock = clock
        self._on_organization = on_organization
        self._holder = new_id()
        self._lease_until_s = 0.0
        self._again_after_s = _WATCH_AGAIN_AFTER_S
        self._turn = asyncio.Lock()
        self._retried: frozenset[str] = frozenset()
        self._retry_done = asyncio.Event()

    async def run(self) -> NoReturn:
        """Follow whenever no other process does, until cancelled."""
        leave_deadline()
        while True:
            try:
                if await self._take_lease():
                    await self._lead()
            except Refusal as refusal:
                _log.warning("the lease of organizations cannot be taken", reason=refusal.reason)
            await asyncio.sleep(_RENEW_EVERY_S * random.uniform(0.5, 1))

    async def _take_lease(self) -> bool:
        asked_s = time.monotonic()
        async with self._database.raw_connection() as connection:
            held = await store.take_lease(connection, self._holder, LEASE_S)
        if held:
            self._lease_until_s = asked_s + LEASE_S
        return held

    async def _lead(self) -> None:
        """Follow, and try unhandled organizations again, until the lease is lost."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._renew(), name="lease of organizations")
                group.create_task(self._follow(), name="organizations")
                group.create_task(self._retry_for_ever(), name="unhandled organizations")
        except* LeaseLost:
            _log.warning("the lease of organizations was lost")
        finally:
            # So that another process need not wait until it ends by itself.
            with suppress(Refusal):
                async with self._database.raw_connection() as connection:
                    await store.release_lease(connection, self._holder)

    async def _renew(self) -> NoReturn:
        while True:
            await asyncio.sleep(_RENEW_EVERY_S)
            try:
                async with asyncio.timeout(max(0, self._lease_until_s - time.monotonic())):
                    if not await self._take_lease():
                        raise LeaseLost
            except TimeoutError:
                raise LeaseLost from None
            except Refusal as refusal:
                _log.warning("the lease of organizations was not renewed", reason=refusal.reason)

    async def _follow(self) -> NoReturn:
        """Follow stream after stream; wait a growing time, in part random, before the next after one that broke."""
        while True:
            opened_s = time.monotonic()
            try:
                await self._follow_stream()
                if time.monotonic() >= opened_s + _WATCH_AGAIN_AFTER_S:
                    continue  # Identity ends every stream after some minutes; the next one goes on where it ended.
                problem = "ENDED_AT_ONCE"
            except grpc.aio.AioRpcError as error:
                problem = error.code().name
            except Refusal as refusal:
                problem = refusal.reason
            except (TimeoutError, TooManyUnhandled) as error:
                problem = type(error).__name__
            _log.warning("the stream of organizations broke", problem=problem, again_in_s=self._again_after_s)
            await asyncio.sleep(self._again_after_s * random.uniform(0.5, 1))
            self._again_after_s = min(self._again_after_s * 2, _WATCH_AGAIN_AFTER_MAX_S)

    async def _follow_stream(self) -> None:
        async with self._database.raw_transaction() as tx:
            revision = await self._hold(tx)
            await _require_few(tx)
        request = pb.WatchOrganizationsRequest(after_revision=revision)
        stream = self._organizations.WatchOrganizations(request, timeout=_STREAM_MAX_S)
        try:
            messages = aiter(stream)
            while True:
                async with asyncio.timeout(_SILENCE_MAX_S):
                    message = await anext(messages, None)
                if message is None:
                    return
                if message.resync:
                    _log.warning("identity has gone back to an earlier state; all organizations are handled again")
                    await self._forget_unhandled()
                if message.organizations or message.revision != revision:
                    await self._take_in([_organization(one) for one in message.organizations], message.revision)
                    revision = message.revision
                self._again_after_s = _WATCH_AGAIN_AFTER_S
        finally:
            stream.cancel()

    async def _forget_unhandled(self) -> None:
        """Forget what was set aside before identity went back; if this process dies now, identity tells it again."""
        async with self._turn, self._database.raw_transaction() as tx:
            await self._hold(tx)
            await store.drop_all_unhandled(tx)

    async def _take_in(self, organizations: Sequence[Organization], revision: int) -> None:
        """Handle organizations, and store that everything up to the revision was handled or set aside."""
        ids = {one.organization_id for one in organizations}
        # What was set aside of them is out of date. If this process dies now, they are told again.
        async with self._turn, self._database.raw_transaction() as tx:
            await self._hold(tx)
            await store.drop_unhandled(tx, ids)
        if not self._retried.isdisjoint(ids):
            await self._retry_done.wait()
        reasons = await self._attempt(organizations)
        now = self._clock.now()
        failed = [
            Unhandled(one, reasons[one.organization_id], 1, now + backoff(1))
            for one in organizations
            if one.organization_id in reasons
        ]
        async with self._database.raw_transaction() as tx:
            await self._hold(tx)
            await store.set_aside(tx, failed, now)
            await store.move(tx, revision)
        if failed:
            async with self._database.raw_connection() as connection:
                await _require_few(connection)

    async def _retry_for_ever(self) -> NoReturn:
        while True:
            tried = 0
            try:
                tried = await self._retry()
            except Refusal as refusal:
                _log.warning("unhandled organizations cannot be tried again", reason=refusal.reason)
            if tried < _HANDLED_AT_ONCE:
                await asyncio.sleep(_RETRY_ROUND_S)

    async def _retry(self) -> int:
        """Try some unhandled organizations again whose time has come; return how many."""
        async with self._turn:
            due = await self._claim_due()
            self._retried = frozenset(one.organization.organization_id for one in due)
            self._retry_done.clear()
        try:
            reasons = await self._attempt([one.organization for one in due])
            if due:
                await self._note_retried(due, reasons)
        finally:
            self._retried = frozenset()
            self._retry_done.set()
        return len(due)

    async def _claim_due(self) -> list[Unhandled]:
        """Return unhandled organizations that are due; the next attempt of each is put off first, even if we die."""
        now = self._clock.now()
        async with self._database.raw_transaction() as tx:
            await self._hold(tx)
            found = await store.find_due(tx, now, _HANDLED_AT_ONCE)
            due = [_after_another_attempt(one, now) for one in found]
            await store.postpone(tx, due)
        return due

    async def _note_retried(self, due: Sequence[Unhandled], reasons: Mapping[str, str]) -> None:
        async with self._database.raw_transaction() as tx:
            await self._hold(tx)
            await store.drop_unhandled(
                tx, [id_ for one in due if (id_ := one.organization.organization_id) not in reasons]
            )
            await store.postpone(
                tx,
                [
                    Unhandled(one.organization, reasons[id_], one.attempt_count, one.next_attempt_time)
                    for one in due
                    if (id_ := one.organization.organization_id) in reasons
                ],
            )

    async def _attempt(self, organizations: Sequence[Organization]) -> dict[str, str]:
        """Handle each organization, a few at a time; return why some could not be, by their ids."""
        turns = asyncio.Semaphore(_HANDLED_AT_ONCE)
        reasons: dict[str, str] = {}

        async def attempt(organization: Organization) -> None:
            async with turns:
                reason = await self._reason_against(organization)
            if reason is not None:
                reasons[organization.organization_id] = reason

        async with asyncio.TaskGroup() as group:
            for organization in organizations:
                group.create_task(attempt(organization))
        if reasons:
            shown = sorted(set(reasons.values()))[:_REASONS_LOGGED_MAX]
            _log.warning("organizations not handled", organizations=len(reasons), reasons=shown)
        return reasons

    async def _reason_against(self, organization: Organization) -> str | None:
        """Handle one organization; return why that failed, or None."""
        limit = asyncio.timeout(_HANDLE_WITHIN_S)
        try:
            async with limit:
                await self._on_organization(organization)
        except Refusal as refusal:
            return storable(f"{refusal.reason}: {refusal.message}", _REASON_CHARS_MAX)
        except Exception as error:  # noqa: BLE001 -- one organization that fails must not stop the others.
            if limit.expired():
                return f"It took longer than {_HANDLE_WITHIN_S:g} s."
            _log.error("handling failed", organization_id=organization.organization_id, exc_info=error)
            return type(error).__name__
        return None

    async def _hold(self, tx: RawConnection) -> int:
        """Return the stored position; nobody takes the lease before the end of the transaction.

        Raises:
            LeaseLost: another process has taken it.
        """
        revision = await store.hold_lease(tx, self._holder)
        if revision is None:
            raise LeaseLost
        return revision


async def _require_few(connection: RawConnection) -> None:
    if await store.count_unhandled(connection, UNHANDLED_MAX) >= UNHANDLED_MAX:
        raise TooManyUnhandled


def backoff(attempt_count: int) -> timedelta:
    """Return how long to wait after the attempt of this number: a time that doubles, and is in part random."""
    ceiling_s = min(_RETRY_MAX_S, _RETRY_FIRST_S * 2 ** min(attempt_count, _DOUBLINGS_MAX))
    return timedelta(seconds=random.uniform(ceiling_s / 2, ceiling_s))


def _after_another_attempt(one: Unhandled, now: datetime) -> Unhandled:
    attempt_count = one.attempt_count + 1
    return Unhandled(one.organization, one.reason, attempt_count, now + backoff(attempt_count))


def _organization(told: pb.WatchedOrganization) -> Organization:
    return Organization(
        organization_id=told.organization_id,
        revision=told.revision,
        personal=told.personal,
        owner_user_id=told.owner_user_id or None,
        create_time=parse_time("create_time", told.create_time, []),
        delete_time=parse_optional_time("delete_time", told.delete_time, present=told.HasField("delete_time")),
    )
