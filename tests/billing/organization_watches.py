"""Processes of billing that follow identity's organizations with a handler that records what it is given."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sqlalchemy import text

from libs.common.channel import open_channel
from libs.common.database import Database
from libs.common.ids import new_id
from services.billing.clients.organizations import Organization, OrganizationWatch
from tests.identity.support import Identity
from tests.support.callers import Callers
from tests.support.clock import ShiftedClock
from tollhouse.identity.v1 import organization_pb2

WITHIN_S = 10


@dataclass
class Handler:
    """Records what it is called with; `behaviour` may fail or hang for some of them."""

    calls: list[Organization] = field(default_factory=list)
    behaviour: Callable[[Organization], Awaitable[None]] | None = None

    async def __call__(self, organization: Organization) -> None:
        self.calls.append(organization)
        if self.behaviour is not None:
            await self.behaviour(organization)

    @property
    def ids(self) -> set[str]:
        return {one.organization_id for one in self.calls}

    async def until(self, *organization_ids: str) -> None:
        await until_true(lambda: self.ids >= set(organization_ids))


async def until_true(
    reached: Callable[[], bool | Awaitable[bool]], progress: Callable[[], object] = lambda: None
) -> None:
    """Return when it is reached; fail after ten seconds in which `progress` has given the same answer."""
    last = progress()
    async with asyncio.timeout(WITHIN_S) as limit:
        while True:
            answer = reached()
            if answer if isinstance(answer, bool) else await answer:
                return
            if (now := progress()) != last:
                last = now
                limit.reschedule(asyncio.get_running_loop().time() + WITHIN_S)
            await asyncio.sleep(0.02)


@dataclass(frozen=True)
class Billing:
    """Starts watches as processes of billing do, on the test's database."""

    callers: Callers
    database: Database
    clock: ShiftedClock

    @asynccontextmanager
    async def watch(self, port: int, handler: Handler) -> AsyncIterator[asyncio.Task[None]]:
        tokens = self.callers.token_source("billing")
        channel = open_channel(f"127.0.0.1:{port}", caller=tokens, audience="identity.tollhouse")
        watching = asyncio.create_task(OrganizationWatch(channel, self.database, self.clock, handler).run())
        try:
            yield watching
        finally:
            watching.cancel()
            (ended,) = await asyncio.gather(watching, return_exceptions=True)
            await channel.close()
            assert isinstance(ended, asyncio.CancelledError), ended

    async def position(self) -> int:
        async with self.database.raw_connection() as connection:
            return int(await connection.fetchval("SELECT coalesce(max(revision), 0) FROM billing.watch_positions"))

    async def unhandled(self) -> dict[str, str]:
        """Return the reasons by the ids of the organizations."""
        async with self.database.raw_connection() as connection:
            rows = await connection.fetch("SELECT organization_id::text, reason FROM billing.unhandled_organizations")
        return dict(map(tuple, rows))

    async def execute(self, statement: str, *arguments: object) -> None:
        async with self.database.raw_connection() as connection:
            await connection.execute(statement, *arguments)

    async def is_at(self, revision: int) -> bool:
        return await self.position() == revision

    async def has_set_aside(self, organization_id: str) -> bool:
        return organization_id in await self.unhandled()

    async def has_set_nothing_aside(self) -> bool:
        return not await self.unhandled()


async def make_organizations(identity_database: Database, count: int) -> list[str]:
    """Make organizations at once, as an import would."""
    ids = [new_id() for _ in range(count)]
    async with identity_database.transaction() as tx:
        await tx.execute(
            text(
                "INSERT INTO identity.organizations (organization_id, name, create_time, update_time)"
                " SELECT CAST(id AS uuid), '', now(), now() FROM unnest(CAST(:ids AS text[])) id"
            ),
            {"ids": ids},
        )
    return ids


async def delete_organization(identity: Identity, organization_id: str) -> None:
    request = organization_pb2.DeleteOrganizationRequest(organization_id=organization_id)
    await identity.organizations.DeleteOrganization(request, metadata=identity.metadata)
