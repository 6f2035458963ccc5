"""A process that is killed between a webhook and what follows from it loses nothing and doubles nothing."""

import asyncio
import signal
from decimal import Decimal

import pytest

from services.billing.payment.webhook.worker import CLAIMED_FOR
from tests.billing import dying_inbox
from tests.billing.shop import open_shop, organization
from tests.support.clock import FixedClock
from tests.support.forked import exit_code_of
from tests.support.kills import KILLS_AT_EACH_POINT
from tests.support.providers.stripe import FakeStripe

pytestmark = pytest.mark.thorough


@pytest.mark.shards
async def test_sigkill_at_every_point_leaves_the_rest_to_the_provider_and_the_next_process(
    database_urls: dict[str, str],
) -> None:
    url = database_urls["billing"]
    async with open_shop(url) as shop:
        for point in dying_inbox.POINTS * KILLS_AT_EACH_POINT:
            org = organization()
            webhooks = await shop.live("stripe", org, ["subscribe", "renew", "refund a part"])
            # The clock of the other process stands at the beginning.
            sent = [("stripe", *FakeStripe(clock=FixedClock()).webhook(one)) for one in webhooks]
            assert await exit_code_of(dying_inbox.run, url, point, sent) == -signal.SIGKILL, point
            # What was not answered is sent again; what was claimed is free again after a minute.
            await asyncio.gather(*map(shop.house.send, webhooks))
            shop.clock.advance(CLAIMED_FOR)
            assert await shop.settle() == {"APPLIED"}, point
            assert (await shop.outcome(org))["posted"] == {"USD": Decimal(19)}, point
