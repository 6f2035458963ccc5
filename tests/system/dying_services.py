"""Runs metering or billing again and again, each time until it kills itself with SIGKILL at a named point.

`python -m tests.system.dying_services metering` imports everything once and forks a process for each command that it
reads, so that a start takes a fraction of a second. It answers with a line for each event: `ready`, and `ended` with
the signal that ended the process and the point that it had reached. There is one process at a time.

The services know nothing of it. What is wrapped here are the seams between them and the world:

- `before the commit of X` and `after the commit of X`: a transaction that the function X makes;
- `before the statement of X` and `after the statement of X`: a block of X with statements that commit by themselves;
- `before R` and `after R`: the call R of another service, before it is sent and when its answer is there;
- `before the answer of R`: the RPC R has done its work, and the caller is not told.

A commit of usage or of the ledger also has a name for each kind of thing that it commits, such as `a settlement`.
"""

import asyncio
import gc
import json
import os
import select
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Collection
from contextvars import ContextVar
from functools import wraps
from typing import Any, Final, NoReturn

import grpc

from libs.common import channel, database
from libs.common.process import run_service
from libs.common.server import Service
from services.billing import __main__ as billing
from services.billing.ledger.engine import Engine
from services.billing.settings import BillingSettings
from services.metering import __main__ as metering
from services.metering.quota import allocations
from services.metering.settings import MeteringSettings
from services.metering.usage import store
from services.metering.usage.engine import UsageEngine
from tests.support.sharded import SHARDS, keep_shards_apart

_COMMAND_MAX_BYTES: Final = 65_536
_COMMITS_OF_USAGE: Final = ("_record", "_record_counted", "_record_carefully")
CONFIRMED: Final = "the deletion of confirmed charges"
_things: ContextVar[frozenset[tuple[str, str]]] = ContextVar("what is committed", default=frozenset())
"""Names for what is committed, each with the function that commits it."""


class _Fuse:
    """Kills this process when it reaches its point for the n-th time. Without a point it lives."""

    point = ""
    visits = 0
    events = -1
    """Where events are written to."""

    def burn(self, name: str) -> None:
        if name != self.point:
            return
        self.visits -= 1
        if self.visits <= 0:
            self.tell(f"died {name}")
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # Other threads may take a moment to learn of it; nothing more happens in this one.

    def burn_each(self, when: str, what: str, name: str) -> None:
        self.burn(f"{when} the {what} of {name}")
        for committing, thing in _things.get():
            if committing == name:
                self.burn(f"{when} the commit of {thing}")

    def tell(self, event: str) -> None:
        os.write(self.events, f"{event}\n".encode())


_FUSE: Final = _Fuse()


def _wrap_blocks() -> None:
    """Wrap the blocks in which the driver's connection is used: `async with database.raw_transaction()` and the like.

    A block has the name of the function in which it is written.
    """
    enter, leave, commit = (
        database._RawConnection.__aenter__,
        database._RawConnection.__aexit__,
        database._RawTransaction._commit,
    )

    async def entered(self: database._RawConnection) -> database.RawConnection:
        name = sys._getframe(1).f_code.co_qualname
        connection = await enter(self)
        if type(self) is database._RawConnection:
            _FUSE.burn_each("before", "statement", name)
        return connection

    async def left(self: database._RawConnection, kind: Any, error: Any, traceback: Any) -> None:
        if error is None:
            _FUSE.burn_each("after", "statement", sys._getframe(1).f_code.co_qualname)
        await leave(self, kind, error, traceback)

    async def committed(self: database._RawTransaction) -> None:
        name = sys._getframe(2).f_code.co_qualname
        _FUSE.burn_each("before", "commit", name)
        await commit(self)
        _FUSE.burn_each("after", "commit", name)

    database._RawConnection.__aenter__ = entered  # type: ignore[method-assign]
    database._RawConnection.__aexit__ = left  # type: ignore[method-assign]
    database._RawTransaction._commit = committed  # type: ignore[method-assign]


def _wrap_calls() -> None:
    """Wrap the calls of other services."""
    send = channel._UnaryUnary.intercept_unary_unary

    async def sent(self: Any, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        name = str(details.method).strip("b'").rpartition("/")[2]
        _FUSE.burn(f"before {name}")
        call = await send(self, continuation, details, request)
        await call
        _FUSE.burn(f"after {name}")
        return call

    channel._UnaryUnary.intercept_unary_unary = sent  # type: ignore[method-assign, assignment]


def _wrap_answers() -> None:
    """Wrap the RPCs of every servicer, and tell when the service is ready."""
    add, start = Service.add, Service.start

    def added(self: Service, add_to_server: Any, servicer: Any, *more: Any) -> None:
        for name in dir(servicer):
            if name[0].isupper() and asyncio.iscoroutinefunction(getattr(servicer, name)):
                setattr(servicer, name, _answering(name, getattr(servicer, name)))
        add(self, add_to_server, servicer, *more)

    async def started(self: Service) -> int:
        port = await start(self)
        _FUSE.tell("ready")
        return port

    Service.add = added  # type: ignore[method-assign, assignment]
    Service.start = started  # type: ignore[method-assign]


def _answering(name: str, answer: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    @wraps(answer)
    async def answering(*arguments: object) -> object:
        answered = await answer(*arguments)
        _FUSE.burn(f"before the answer of {name}")
        return answered

    return answering


def _note_things(owner: Any, name: str, things: Callable[..., Collection[str]]) -> None:
    """Let what a function commits have names of its own, which are found from its arguments."""
    run = getattr(owner, name)

    @wraps(run)
    async def running(*arguments: Any, **options: Any) -> object:
        named = {(run.__qualname__, thing) for thing in things(*arguments, **options)}
        before = _things.set(_things.get() | named)
        try:
            return await run(*arguments, **options)
        finally:
            _things.reset(before)

    setattr(owner, name, running)


def _wrap_deletion() -> None:
    """Note that a statement which records usage also deletes the rows of confirmed charges, for the commit after it."""

    def noting(record: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @wraps(record)
        async def recorded(*arguments: Any, **options: Any) -> Any:
            if options["done"]:
                _things.set(_things.get() | {(f"UsageEngine.{name}", CONFIRMED) for name in _COMMITS_OF_USAGE})
            return await record(*arguments, **options)

        return recorded

    store.record = noting(store.record)  # type: ignore[assignment]
    store.record_counted = noting(store.record_counted)  # type: ignore[assignment]


def _commands(_engine: object, _database: object, commands: Collection[object]) -> set[str]:
    return {f"a {type(command).__name__}" for command in commands}


def _works(_engine: object, batch: Any, *_rest: object, **_options: object) -> set[str]:
    return {"a settlement" if one.work.settles else "usage" for one in batch.rows.recorded}


def _prepare() -> None:
    keep_shards_apart()
    _wrap_blocks()
    _wrap_calls()
    _wrap_answers()
    _wrap_deletion()
    _note_things(Engine, "_run_quickly", _commands)
    _note_things(Engine, "_run_carefully", _commands)
    for name in _COMMITS_OF_USAGE:
        _note_things(UsageEngine, name, _works)
    # Leases are looked for every second otherwise, and some processes do not live that long.
    allocations._LEASES_EVERY_S = 0.05  # type: ignore[misc]


def _be_service(context: str, command: dict[str, Any]) -> NoReturn:
    """What the forked process does: be the service, with settings and a log of its own."""
    _FUSE.point, _FUSE.visits = command["point"], command["visits"]
    log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.environ.update(command["environment"])
    if context == "metering":
        run_service(context, MeteringSettings, metering.build)
    else:
        run_service(context, BillingSettings, billing.build)
    sys.exit(0)


def _say(**event: object) -> None:
    print(json.dumps(event), flush=True)


def main(context: str) -> None:
    """Fork a service for each line that is read, and tell what becomes of it."""
    os.environ["TOLLHOUSE_SHARDS"] = os.environ.get("TOLLHOUSE_SHARDS", str(SHARDS))
    _prepare()
    # Else each process goes through all objects of the modules when it has started, and copies their memory so.
    gc.collect()
    gc.freeze()
    _say(event="imported")
    while command := os.read(0, _COMMAND_MAX_BYTES):
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reading)
            _FUSE.events = writing
            _be_service(context, json.loads(command))
        os.close(writing)
        _say(event="started", pid=pid)
        point = _follow(pid, reading)
        _, status = os.waitpid(pid, 0)
        _say(event="ended", signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, point=point)


def _follow(pid: int, events: int) -> str:
    """Pass on that a process is ready, and return at which point it has died.

    Whoever wants no more of it closes the standard input. The process is killed then.
    """
    point = ""
    while True:
        readable, _, _ = select.select([events, 0], [], [])
        if events not in readable:
            os.kill(pid, signal.SIGKILL)
        told = os.read(events, _COMMAND_MAX_BYTES).decode()
        if not told:
            os.close(events)
            return point
        for event in told.splitlines():
            if event == "ready":
                _say(event="ready")
            else:
                point = event.removeprefix("died ")


if __name__ == "__main__":
    main(sys.argv[1])
