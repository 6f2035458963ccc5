"""The receiver of docs/events.md takes what is sent, once, and refuses what is not signed."""

import asyncio
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from libs.cli.installation.environment import repository
from libs.common.events.domain import Status
from libs.common.events.post import Poster
from libs.common.events.replays import Wanted
from libs.common.ids import new_id
from libs.common.ports import free_port
from tests.common.events.support import LOOPBACK, House

PAGE = (repository() / "docs" / "events.md").read_text(encoding="utf-8")


async def test_the_documented_receiver_takes_each_event_once_and_refuses_a_wrong_signature(
    house: House, tmp_path: Path
) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "receiver.py").write_text(program)
    org, port = new_id(), free_port()
    house.clock.set(datetime.now(UTC))
    made = await house.add_endpoint(org, f"http://127.0.0.1:{port}/")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(tmp_path / "receiver.py"), str(port), made.secret, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        await answering(port)
        await house.announce(org, count=2)
        await house.deliver()
        (first, second) = await house.deliveries(org, made.endpoint.endpoint_id)
        wanted = Wanted((first.event_id,))
        await house.replays.replay(org, made.endpoint.endpoint_id, wanted, request_id="", of_platform=False)
        await house.deliver()
        outcome = await Poster(LOOPBACK).post(f"http://127.0.0.1:{port}/", {"webhook-id": "x"}, b"{}")
        assert outcome.http_status == 401
        for delivery in await house.deliveries(org, made.endpoint.endpoint_id):
            assert delivery.status is Status.DELIVERED
    finally:
        process.terminate()
        printed, _ = await process.communicate()
    assert printed.decode().split("\n") == [f"tollhouse.thing.changed thing/1 {n}" for n in (1, 2)] + [""]
    assert second.sequence == 2


async def answering(port: int) -> None:
    """Return when somebody listens."""
    async with asyncio.timeout(20):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)
