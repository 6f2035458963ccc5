"""A process that works off what is due for subscriptions, and is killed after a named commit."""

import asyncio
import os
import signal
from collections.abc import Sequence
from datetime import datetime

from libs.common.database import Database, RawConnection
from services.billing.subscription import execution, progress
from services.billing.subscription.execution import Counts
from tests.billing.period_house import open_house
from tests.support.clock import FixedClock

COMMITS = ("planned", "charged", "granted", "completed")


class DyingExecution(execution.Execution):
    """Dies after the first commit of a name that is made for something."""

    dies_after = ""

    async def carry_out(self, database: Database, held: RawConnection, work: Sequence[execution.Work]) -> Counts:
        counts = await super().carry_out(database, held, work)
        if self.dies_after == "completed":
            DyingProgress.is_last = counts.done > 0
        return counts

    async def _charge(self, work: Sequence[execution.Work]) -> None:
        self._die("planned", any(one.step.event.planned for one in work))
        await super()._charge(work)

    async def _grant(self, database: Database, work: Sequence[execution.Work]) -> None:
        self._die("charged", any(one.step.event.charge is not None for one in work))
        await super()._grant(database, work)

    async def _complete(self, held: RawConnection, work: Sequence[execution.Work]) -> Counts:
        self._die("granted", any(one.step.event.refills for one in work))
        return await super()._complete(held, work)

    def _die(self, name: str, has_moved: bool) -> None:
        if has_moved and name == self.dies_after:
            os.kill(os.getpid(), signal.SIGKILL)


class DyingProgress(progress.Progress):
    """Dies after a batch is completed, where that is wanted."""

    is_last = False

    async def run_batch(self, number: int, until: datetime, limit: int) -> Counts:
        counts = await super().run_batch(number, until, limit)
        if self.is_last:
            os.kill(os.getpid(), signal.SIGKILL)
        return counts


def run(url: str, now: datetime, dies_after: str) -> None:
    """Work off what is due by a moment; die at the commit, or end where nothing is committed under its name."""

    async def work() -> None:
        async with open_house(url, FixedClock(now)) as house:
            house.progress.__class__ = DyingProgress
            house.progress._execution.__class__ = DyingExecution
            DyingExecution.dies_after = dies_after
            await house.work_off()

    asyncio.run(work())
