"""GroupCommit gives one answer for each item, in order, and no item fails because of another."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from libs.common.database import Database, LostNode
from libs.common.errors import Conflict, Overloaded, Unavailable
from libs.common.group_commit import BatchLimits, GroupCommit
from libs.common.ids import new_id
from libs.common.shards import Shards, open_shards
from tests.support.outage import cut_off

pytestmark = pytest.mark.shards

ORGANIZATION = new_id()
LIMITS = BatchLimits(items_max=50, queued_max=200, running_max=2, shards_max=4, full_at=20, wait_max_s=0.02)


class Recorder:
    """Answers each item with twice its value; an item in `poison` fails its batch with the given error."""

    def __init__(self, poison: dict[int, Exception] | None = None, seconds: float = 0.002) -> None:
        self.poison = poison or {}
        self.seconds = seconds
        self.batches: list[list[int]] = []
        self.schemas: list[str] = []
        self.running = 0
        self.running_most = 0

    async def run(
        self, database: Database, items: Sequence[int], let_next_begin: Callable[[], None]
    ) -> list[int | Exception]:
        self.batches.append(list(items))
        self.schemas.append(database.schema)
        self.running += 1
        self.running_most = max(self.running_most, self.running)
        let_next_begin()
        try:
            await asyncio.sleep(self.seconds)
            for item in items:
                if item in self.poison:
                    raise self.poison[item]
        finally:
            self.running -= 1
        return [2 * item for item in items]


def group(recorder: Recorder, shards: Shards, limits: BatchLimits = LIMITS) -> GroupCommit[int, int]:
    """Return a group commit of items that all belong to one organization."""
    return GroupCommit("test", recorder.run, shards, limits, lambda _: ORGANIZATION)


async def test_every_caller_gets_the_answers_to_its_items_in_order(metering_shards: Shards) -> None:
    recorder = Recorder()
    commits = group(recorder, metering_shards)
    submissions = [list(range(start, start + random.randint(1, 7))) for start in range(0, 1000, 10)]

    answers = await asyncio.gather(*(commits.submit(items) for items in submissions[:30]))

    assert answers == [[2 * item for item in items] for items in submissions[:30]]
    assert all(len(batch) <= LIMITS.items_max for batch in recorder.batches)
    assert recorder.running_most <= LIMITS.running_max


async def test_calls_that_arrive_while_a_batch_runs_share_the_next_one(metering_shards: Shards) -> None:
    recorder = Recorder(seconds=0.05)
    commits = group(recorder, metering_shards)

    first = asyncio.create_task(commits.submit([1]))
    await asyncio.sleep(0.01)
    others = [asyncio.create_task(commits.submit([item])) for item in range(2, 12)]
    await asyncio.gather(first, *others)

    assert recorder.batches[0] == [1]
    assert sorted(recorder.batches[1]) == list(range(2, 12))


@pytest.mark.parametrize("seed", range(20))
async def test_any_number_of_failing_items_fail_alone(metering_shards: Shards, seed: int) -> None:
    chance = random.Random(seed)
    errors: list[Exception] = [ValueError("a bug"), Conflict(), Unavailable(dependency="database")]
    poison = {item: chance.choice(errors) for item in chance.sample(range(40), chance.randint(1, 5))}
    recorder = Recorder(poison, seconds=0)
    commits = group(recorder, metering_shards)

    answers = await asyncio.gather(*(commits.submit([item]) for item in range(40)))

    assert answers == [[poison.get(item, 2 * item)] for item in range(40)]


async def test_unreachable_database_fails_the_whole_batch_at_once(
    metering_shards: Shards, database_admin_url: str
) -> None:
    await metering_shards[0].ping()
    recorder = Recorder({item: Unavailable(dependency="database") for item in range(40)}, seconds=0)
    commits = group(recorder, metering_shards)

    async with cut_off(database_admin_url):
        answers = await asyncio.gather(*(commits.submit([item]) for item in range(40)))

    assert all(isinstance(answer, Unavailable) for (answer,) in answers)
    assert all(len(batch) == 40 for batch in recorder.batches)


async def test_lost_machine_fails_the_whole_batch_although_the_coordinator_answers(
    metering_shards: Shards,
) -> None:
    recorder = Recorder({item: LostNode(dependency="database") for item in range(40)}, seconds=0)
    commits = group(recorder, metering_shards)

    answers = await asyncio.gather(*(commits.submit([item]) for item in range(40)))

    assert all(isinstance(answer, Unavailable) for (answer,) in answers)
    assert all(len(batch) == 40 for batch in recorder.batches)


async def test_failing_batch_does_not_delay_others(metering_shards: Shards) -> None:
    recorder = Recorder(dict.fromkeys(range(40), Conflict()), seconds=0)
    commits = group(recorder, metering_shards)
    failing = asyncio.create_task(commits.submit(list(range(40))))
    await asyncio.sleep(1)

    assert not failing.done()
    assert await asyncio.wait_for(commits.submit([100]), 1) == [200]
    assert all(isinstance(answer, Conflict | Overloaded) for answer in await failing)


async def test_items_beyond_the_queue_limit_are_refused(metering_shards: Shards) -> None:
    recorder = Recorder(seconds=0.05)
    commits = group(recorder, metering_shards, BatchLimits(10, 30, 1, 1, 10, 0.02))
    running = asyncio.create_task(commits.submit([1]))
    await asyncio.sleep(0.02)
    waiting = asyncio.create_task(commits.submit(list(range(2, 32))))
    await asyncio.sleep(0)

    with pytest.raises(Overloaded):
        await commits.submit([99])

    await asyncio.gather(running, waiting)
    assert 99 not in [item for batch in recorder.batches for item in batch]


async def test_cancelled_caller_does_not_cancel_others(metering_shards: Shards) -> None:
    recorder = Recorder(seconds=0.03)
    commits = group(recorder, metering_shards)
    calls = [asyncio.create_task(commits.submit([item])) for item in range(20)]
    await asyncio.sleep(0.01)
    gone = [asyncio.create_task(commits.submit([100 + item])) for item in range(5)]
    await asyncio.sleep(0)
    for call in (*calls[:5], *gone):
        call.cancel()

    answers = await asyncio.gather(*calls[5:])

    assert answers == [[2 * item] for item in range(5, 20)]
    await commits.drain()
    assert all(item < 100 for batch in recorder.batches for item in batch)


async def test_drain_answers_submitted_items_and_refuses_new_ones(metering_shards: Shards) -> None:
    recorder = Recorder(seconds=0.02)
    commits = group(recorder, metering_shards)
    calls = [asyncio.create_task(commits.submit([item])) for item in range(150)]
    await asyncio.sleep(0)

    await commits.drain()

    assert [call.done() for call in calls] == [True] * 150
    with pytest.raises(Overloaded):
        await commits.submit([1])


@pytest.fixture
async def three_shards(database_urls: dict[str, str]) -> AsyncIterator[Shards]:
    """Three shards, which no test here asks anything of the database."""
    shards = open_shards(database_urls["metering"], schema="metering", count=3)
    yield shards
    await shards.close()


def by_remainder(recorder: Recorder, shards: Shards, limits: BatchLimits = LIMITS) -> GroupCommit[int, int]:
    """Return a group commit in which items belong to the shard that is their remainder by the number of shards."""
    organizations = {shards.number_of(one): one for one in (new_id() for _ in range(200))}
    return GroupCommit("test", recorder.run, shards, limits, lambda item: organizations[item % len(shards)])


async def test_batches_hold_items_of_one_shard_and_answers_come_in_the_order_of_the_items(
    three_shards: Shards,
) -> None:
    recorder = Recorder()
    commits = by_remainder(recorder, three_shards)
    items = list(range(30))
    random.shuffle(items)
    assert await commits.submit(items) == [2 * item for item in items]
    assert sorted(recorder.schemas) == ["metering_00", "metering_01", "metering_02"]
    for schema, batch in zip(recorder.schemas, recorder.batches, strict=True):
        assert batch == [item for item in items if item % 3 == int(schema[-1])]


async def test_slow_shard_delays_no_other(three_shards: Shards) -> None:
    class Slow(Recorder):
        async def run(
            self, database: Database, items: Sequence[int], let_next_begin: Callable[[], None]
        ) -> list[int | Exception]:
            if database.schema == "metering_00":
                await asyncio.sleep(3)
            return await super().run(database, items, let_next_begin)

    commits = by_remainder(Slow(), three_shards)
    slow = [asyncio.create_task(commits.submit([0])) for _ in range(20)]
    await asyncio.sleep(0.05)
    for _ in range(10):
        assert await asyncio.wait_for(commits.submit([1, 2]), 1) == [2, 4]
    assert not any(task.done() for task in slow)
    await asyncio.gather(*slow)


class Stuck(Recorder):
    """Takes three seconds for each batch of the shards but the last."""

    async def run(
        self, database: Database, items: Sequence[int], let_next_begin: Callable[[], None]
    ) -> list[int | Exception]:
        let_next_begin()
        if database.schema != "metering_02":
            await asyncio.sleep(3)
        return await super().run(database, items, let_next_begin)


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(BatchLimits(10, 500, 1, 2, 10, 0.02), id="as many turns as slow shards"),
        pytest.param(BatchLimits(10, 500, 4, 4, 1, 0.01), id="a slow shard may take every turn"),
    ],
)
async def test_slow_shards_that_have_every_turn_delay_no_other(three_shards: Shards, limits: BatchLimits) -> None:
    commits = by_remainder(Stuck(), three_shards, limits)
    slow = [asyncio.create_task(commits.submit([number])) for number in range(150) if number % 3 != 2]
    await asyncio.sleep(0.2)
    for _ in range(5):
        assert await asyncio.wait_for(commits.submit([2]), 1) == [4]
    assert not all(task.done() for task in slow)
    for task in slow:
        task.cancel()
    await commits.drain()


async def test_queue_limit_holds_for_all_shards_together(three_shards: Shards) -> None:
    commits = by_remainder(Recorder(seconds=0.05), three_shards, BatchLimits(10, 30, 1, 3, 10, 0.02))
    waiting = [asyncio.create_task(commits.submit([number])) for number in range(30)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await commits.submit([99])
    assert await asyncio.gather(*waiting) == [[2 * number] for number in range(30)]


class Timed(Recorder):
    """Takes longer for the first shard than for the others, and notes in which order batches begin."""

    async def run(
        self, database: Database, items: Sequence[int], let_next_begin: Callable[[], None]
    ) -> list[int | Exception]:
        if database.schema == "metering_00":
            await asyncio.sleep(0.1)
        return await super().run(database, items, let_next_begin)


async def test_batches_that_begin_together_are_answered_together(three_shards: Shards) -> None:
    limits = BatchLimits(10, 500, running_max=1, shards_max=3, full_at=10, wait_max_s=5)
    commits = by_remainder(Timed(), three_shards, limits)
    calls = [asyncio.create_task(commits.submit([number])) for number in range(3)]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0)
    assert all(call.done() for call in calls)


async def test_round_without_progress_answers_what_has_ended_and_lets_the_next_one_begin(three_shards: Shards) -> None:
    limits = BatchLimits(10, 500, running_max=1, shards_max=3, full_at=10, wait_max_s=0.02)
    commits = by_remainder(Timed(), three_shards, limits)
    late, quick, _ = calls = [asyncio.create_task(commits.submit([number])) for number in range(3)]
    await asyncio.wait((quick,))
    assert not late.done()
    assert await commits.submit([1]) == [2]
    assert not late.done()
    assert await asyncio.gather(*calls) == [[0], [2], [4]]


async def test_shards_that_waited_longest_are_in_the_next_round(three_shards: Shards) -> None:
    limits = BatchLimits(10, 500, running_max=1, shards_max=1, full_at=10, wait_max_s=5)
    recorder = Recorder()
    commits = by_remainder(recorder, three_shards, limits)

    async def call(number: int) -> None:
        for _ in range(10):
            assert await commits.submit([number]) == [2 * number]

    await asyncio.gather(*(call(number) for number in (0, 0, 0, 0, 1, 2)))
    rounds = ["".join(recorder.schemas[place : place + 3]) for place in range(0, 27, 3)]
    assert set(map(len, recorder.batches)) <= {1, 4}
    assert len(set(rounds)) == 1
    assert sorted(recorder.schemas[:3]) == ["metering_00", "metering_01", "metering_02"]


GATHERED = BatchLimits(50, 500, running_max=4, shards_max=4, full_at=50, wait_max_s=5, gathered_at=10)


async def begun(commits: GroupCommit[int, int], recorder: Recorder) -> "asyncio.Task[list[int | Exception]]":
    """Submit 1, and return its task once its batch runs."""
    task = asyncio.create_task(commits.submit([1]))
    while not recorder.running:  # noqa: ASYNC110 -- the recorder has no event for it.
        await asyncio.sleep(0)
    return task


async def test_gathered_items_begin_beside_a_running_batch_and_stay_apart(metering_shards: Shards) -> None:
    recorder = Recorder(seconds=0.1)
    commits = group(recorder, metering_shards, GATHERED)
    single = await begun(commits, recorder)
    tens = [asyncio.create_task(commits.submit([10 * number] * 10)) for number in (1, 2)]
    assert await asyncio.gather(single, *tens) == [[2], [20] * 10, [40] * 10]
    assert recorder.batches == [[1], [10] * 10, [20] * 10]
    assert recorder.running_most == 3


async def test_gathered_items_of_many_callers_make_one_batch(metering_shards: Shards) -> None:
    recorder = Recorder()
    commits = group(recorder, metering_shards, GATHERED)
    tens = await asyncio.gather(*(commits.submit([number] * 10) for number in range(8)))
    assert tens == [[2 * number] * 10 for number in range(8)]
    assert [len(batch) for batch in recorder.batches] == [50, 30]


async def test_few_items_wait_for_the_running_round_where_gathered_ones_do_not(metering_shards: Shards) -> None:
    recorder = Recorder(seconds=0.05)
    commits = group(recorder, metering_shards, GATHERED)
    first = await begun(commits, recorder)
    await asyncio.gather(first, *(commits.submit([number]) for number in range(2, 11)))
    assert [len(batch) for batch in recorder.batches] == [1, 9]
    assert recorder.running_most == 1
