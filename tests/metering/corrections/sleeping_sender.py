"""A process of metering that stands still before it sends its first charge to billing, until it is continued."""

import os
import signal
from collections.abc import Sequence

from services.metering.__main__ import main
from services.metering.clients.billing import BillingClient, Charge, Charged, NotCharged


def run(environment: dict[str, str], dies: bool) -> None:
    """Serve metering, and stand still before the first charge; with `dies`, be killed when billing has made it."""
    os.environ.update(environment)
    send = BillingClient.charge

    async def charge(client: BillingClient, charges: Sequence[Charge]) -> list[Charged | NotCharged]:
        BillingClient.charge = send  # type: ignore[method-assign]
        os.kill(os.getpid(), signal.SIGSTOP)
        results = await send(client, charges)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return results

    BillingClient.charge = charge  # type: ignore[method-assign, assignment]
    main()
