"""A process that follows identity's organizations and hangs at one of them, for tests that kill it.

    python -m tests.billing.organization_follower TARGET DATABASE_URL KEY_FILE OUTPUT_FILE HANG_AT LEASE_S

writes the id of each organization to the output file as it handles it, and then waits for ever at the one with the
number HANG_AT.
"""

import asyncio
import sys
from pathlib import Path

from libs.common.authentication import SigningKey, TokenSource
from libs.common.channel import open_channel
from libs.common.clock import SystemClock
from libs.common.database import open_database
from services.billing.clients import organizations
from services.billing.clients.organizations import Organization, OrganizationWatch


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


if __name__ == "__main__":
    target, url, key_file, output, hang_at, lease_s = sys.argv[1:]
    asyncio.run(_follow(target, url, Path(key_file), Path(output), int(hang_at), float(lease_s)))
