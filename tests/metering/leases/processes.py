"""Several processes' worth of metering, processes that a test kills, and a billing that does not answer."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import grpc

from libs.common.database_url import plain_url
from libs.common.ports import free_port
from services.metering.__main__ import main
from tests.metering.support import Metering, Platform, eventually
from tests.support.forked import forked
from tests.support.sharded import in_shard_of


@asynccontextmanager
async def servers_of(platform: Platform, count: int) -> AsyncIterator[list[Metering]]:
    """Run metering `count` times on the same database; the platform stops the one that it started last."""
    servers = [platform.metering, *[await platform.start_metering() for _ in range(count - 1)]]
    try:
        yield servers
    finally:
        for server in servers[:-1]:
            await server.service.stop(0)


@asynccontextmanager
async def process(platform: Platform) -> AsyncIterator[tuple[Metering, int]]:
    """Run metering as a process of its own beside the platform's; killed at the end."""
    port = free_port()
    environment = {
        "TOLLHOUSE_METERING_DATABASE_URL": platform.urls["metering"],
        "TOLLHOUSE_METERING_TRUST_BUNDLE_FILE": str(platform.callers.bundle_file),
        "TOLLHOUSE_METERING_SIGNING_KEY_FILE": str(platform.callers.signing_key_file("metering", platform.folder)),
        "TOLLHOUSE_METERING_BILLING_TARGET": f"127.0.0.1:{platform.billing_port}",
        "TOLLHOUSE_METERING_IDENTITY_TARGET": f"127.0.0.1:{platform.identity_port}",
        "TOLLHOUSE_METERING_PORT": str(port),
        "TOLLHOUSE_METERING_RELAY_AFTER_S": "0.3",
    }
    async with (
        forked(_serve, environment) as running,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        async with asyncio.timeout(30):
            await channel.channel_ready()
        assert running.pid is not None
        yield Metering(platform.metering.service, channel, platform.callers), running.pid


def _serve(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    main()


@asynccontextmanager
async def locked_account(platform: Platform, organization_id: str) -> AsyncIterator[None]:
    """Lock the organization's account, so that billing hears what it is asked about it and does not answer."""
    connection = await asyncpg.connect(plain_url(platform.admin_url))
    try:
        async with connection.transaction():
            statement = "SELECT FROM billing.accounts WHERE organization_id = $1 FOR UPDATE"
            await connection.execute(in_shard_of(organization_id, statement), organization_id)
            yield
    finally:
        await connection.close()


async def until_waiting(platform: Platform, count: int) -> None:
    """Return when so many statements wait for a lock."""
    query = """SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'"""
    connection = await asyncpg.connect(plain_url(platform.admin_url))
    try:
        await eventually(lambda: connection.fetchval(query), lambda found: found >= count)
    finally:
        await connection.close()
