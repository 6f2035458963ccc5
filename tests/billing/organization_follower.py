"""A process that follows identity's organizations and hangs at one of them, for tests that kill it."""

import asyncio
from pathlib import Path

from libs.common.authentication import SigningKey, TokenSource
from libs.common.channel import open_channel
from libs.common.clock import SystemClock
from libs.common.database import open_database
from services.billing.clients import organizations
from services.billing.clients.organizations import Organization, OrganizationWatch


def run(target: str, url: str, key_file: Path, output: Path, hang_at: int, lease_s: float) -> None:
    """Write the id of each organization to a file as it is handled, and wait for ever at the one of a number."""
    asyncio.run(_follow(target, url, key_file, output, hang_at, lease_s))


async def _follow(target: str, url: str, key_file: Path, output: Path, hang_at: int, lease_s: float) -> None:
    handled = 0
    organizations._HANDLE_WITHIN_S = 600  # type: ignore[misc]  # It is to hang until it is killed.
    organizations.LEASE_S, organizations._RENEW_EVERY_S = lease_s, lease_s / 5  # type: ignore[misc]

    async def note(organization: Organization) -> None:
        nonlocal handled
        with output.open("a", encoding="utf-8") as lines:
            lines.write(f"{organization.organization_id}\n")
        handled += 1
        if handled == hang_at:
            await asyncio.Event().wait()

    clock = SystemClock()
    tokens = TokenSource(SigningKey.read(key_file), clock)
    channel = open_channel(target, caller=tokens, audience="identity.tollhouse")
    await OrganizationWatch(channel, open_database(url, schema="billing"), clock, note).run()
