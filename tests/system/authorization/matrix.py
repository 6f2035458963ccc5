"""The cells of the matrix: every RPC, as every caller, on every place for which its request differs."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from tests.system.authorization.callers import Caller
from tests.system.authorization.calls import Outcome, Wire
from tests.system.authorization.oracle import Verdict, expected
from tests.system.authorization.requests import NoValidRequest, request_for
from tests.system.authorization.rpcs import Rpc
from tests.system.authorization.stages import stage
from tests.system.authorization.targets import Target
from tests.system.authorization.ways import own_fields
from tests.system.authorization.world import World

_IN_FLIGHT = 24
_Asked = TypeVar("_Asked")
_Answered = TypeVar("_Answered")


@dataclass(frozen=True)
class Cell:
    """One call of the matrix."""

    rpc: Rpc
    caller: Caller
    target: Target

    def __str__(self) -> str:
        return f"{self.rpc} as {self.caller} on {self.target}"


def request_on(rpc: Rpc, target: Target) -> Message:
    """Return a valid request about the resources of a place."""
    return request_for(rpc, target, own_fields(rpc, target))


def cells(rpc: Rpc, caller: Caller, targets: Sequence[Target]) -> Iterator[Cell]:
    """Yield a cell for every place for which the RPC's request differs."""
    seen: set[bytes] = set()
    for target in targets:
        try:
            request = request_for(rpc, target, own_fields(rpc, target), serial=0)
        except NoValidRequest:
            if target.optional:
                continue
            raise
        content = request.SerializeToString(deterministic=True)
        if content not in seen:
            seen.add(content)
            yield Cell(rpc, caller, target)


async def try_in_capitals(wire: Wire, cell: Cell) -> str:
    """Make the call of a read-only cell with all ids in capitals; ids are case-insensitive."""
    request = request_on(cell.rpc, cell.target.in_capitals())
    wanted = expected(cell.rpc, cell.caller, cell.target)
    outcome = await wire.call(cell.rpc, cell.caller.token, request)
    return (
        "" if _is_right(wanted, outcome, cell.target) else f"{cell} in capitals: {wanted.value} was due, but {outcome}"
    )


async def try_out(wire: Wire, world: World, cell: Cell) -> str:
    """Make the call of a cell; return what is wrong with its outcome, or nothing."""
    wanted = expected(cell.rpc, cell.caller, cell.target)
    caller, target = cell.caller, cell.target
    if wanted is Verdict.ADMITTED:
        caller, target = await stage(world, cell.rpc, caller, target)
    outcome = await wire.call(cell.rpc, caller.token, request_on(cell.rpc, target))
    if not _is_right(wanted, outcome, target):
        return f"{cell}: {wanted.value} was due, but {outcome}"
    shown = _shown_beyond_reach(world, cell, outcome)
    return f"{cell}: the answer shows {', '.join(shown)}" if shown else ""


def _is_right(wanted: Verdict, outcome: Outcome, target: Target) -> bool:
    if outcome.is_fault:
        return False
    if wanted is not Verdict.ADMITTED:
        return outcome.verdict is wanted
    if outcome.code is grpc.StatusCode.INVALID_ARGUMENT:
        # On other places every request is complete, and the service reads the resource that it names.
        return target.optional
    # A caller who is let in gets NOT_FOUND for what is missing.
    told = {
        Verdict.NO_ORGANIZATION: "organization",
        Verdict.NO_USER: "user",
        Verdict.NO_CONVERSATION: "conversation",
    }
    return outcome.verdict is Verdict.ADMITTED or told.get(outcome.verdict) in target.missing


def _shown_beyond_reach(world: World, cell: Cell, outcome: Outcome) -> list[str]:
    """Describe what a response reveals of places on which the caller may not make the same call."""
    rpc, caller = cell.rpc, cell.caller
    if outcome.answer is None or not caller.is_limited or rpc.access.public:
        return []
    content = outcome.answer.SerializeToString()
    beyond = [p for p in world.places.values() if expected(rpc, caller, p) is not Verdict.ADMITTED]
    within = [cell.target, *(place for place in world.places.values() if place not in beyond)]
    shared = {id_ for place in within for id_ in place.ids.values()}
    return [
        f"the {name} of {place}"
        for place in beyond
        for name, id_ in place.ids.items()
        if id_ not in shared and id_.encode() in content
    ]


async def each(asked: Sequence[_Asked], do: Callable[[_Asked], Awaitable[_Answered]]) -> list[_Answered]:
    """Run a coroutine for each item, a bounded number at a time."""
    bound = asyncio.Semaphore(_IN_FLIGHT)

    async def one(item: _Asked) -> _Answered:
        async with bound:
            return await do(item)

    return await asyncio.gather(*(one(item) for item in asked))
