"""The group-commit engine: every command of the ledger goes through here.

Callers queue commands and wait. A lane takes whatever is queued, up to a limit, and decides and posts it in one
transaction; what arrives meanwhile is the next batch. There is no timer: the busier it is, the larger the batches.

There are two ways to run a batch. The careful one locks the accounts, looks up what the operations stand for, decides
and writes. The quick one, for debits of accounts this process has just had, takes for granted that the accounts are as
it left them and the operations new, and has Postgres check both in the one statement that writes. Whatever was not as
expected, and whatever would be refused, is decided the careful way: a no is always said on what was read under lock.

A caller that goes away takes nothing with it: its commands are decided all the same, or dropped before their batch
begins. Operation ids make it safe to run a batch again when its commit is in doubt: the second run finds what the first
one wrote. Row locks and unique keys hold when several processes do this side by side.
"""

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from libs.common.clock import Clock
from libs.common.database import ConstraintViolation, Database, RawConnection, violated_constraint
from libs.common.errors import Conflict, DeadlineExceeded, Overloaded, Refusal, Unavailable
from services.billing.ledger import posting_store, standing_store, store
from services.billing.ledger.decisions import decide
from services.billing.ledger.domain import (
    Books,
    Capture,
    Command,
    Credit,
    Debit,
    Decline,
    Extend,
    Kind,
    Outcome,
    Place,
    Posted,
    Release,
    Reverse,
    Transfer,
)
from services.billing.ledger.standing import StandingAccounts

Answer: TypeAlias = Outcome | Exception
"""What became of a command: an outcome, or the refusal (or the bug) that kept it from having one."""

_TRIES: Final = 5
_GATHER_TURNS_MAX: Final = 256
_QUIET_TURNS: Final = 8
"""Turns of the loop without a new command after which a batch begins: a call is read in over several turns."""
_BACKOFF_S: Final = 0.02
_CAREFUL_BATCHES: Final = 32
"""How many batches run the careful way after one that found something other than expected: more may follow."""
_TRANSIENT: Final = (Conflict, Unavailable, DeadlineExceeded)
_LOST_RACES: Final = frozenset(
    {
        *("accounts_owner_currency_once", "transactions_operation_once", "transactions_sequence_once"),
        *("holds_operation_once", "declines_operation_once"),
    }
)
"""Keys that another process can take between our look and our write."""


@dataclass(slots=True)
class _Entry:
    """Commands that one caller waits for together."""

    commands: Sequence[Command]
    answered: asyncio.Future[list[Answer]]


class Engine:
    """Decides and posts commands in batches; see the module."""

    def __init__(
        self, database: Database, clock: Clock, *, batch_max: int = 500, queue_max: int = 20_000, lanes: int = 2
    ) -> None:
        self._database = database
        self._clock = clock
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._lanes_max = lanes
        self._queue: deque[_Entry] = deque()
        self._queued = 0
        self._lanes: set[asyncio.Task[None]] = set()
        self._draining = False
        self._standing = StandingAccounts()
        self._careful_batches = 0

    async def submit(self, commands: Sequence[Command]) -> list[Answer]:
        """Has the commands decided in their order and returns what became of each, once it is durable.

        Raises:
            Overloaded: the queue is full, or the service is going down. Nothing was taken up.
        """
        if self._draining or self._queued + len(commands) > self._queue_max:
            raise Overloaded
        entry = _Entry(commands, asyncio.get_running_loop().create_future())
        self._queue.append(entry)
        self._queued += len(commands)
        if len(self._lanes) < self._lanes_max and (not self._lanes or self._queued >= self._batch_max):
            self._lanes.add(asyncio.create_task(self._run_lane(), name="ledger-lane"))
        return await entry.answered

    async def drain(self) -> None:
        """Takes nothing more and returns when everything queued is answered."""
        self._draining = True
        while self._lanes:
            await asyncio.wait(set(self._lanes))

    async def _run_lane(self) -> None:
        """Runs batches until nothing is queued. It signs off in the same step, so no command slips in unseen."""
        lane = asyncio.current_task()
        try:
            while self._queue:
                await self._let_more_arrive()
                entries = self._take()
                if entries:
                    await self._run_entries(entries)
        finally:
            self._lanes = {other for other in self._lanes if other is not lane}

    async def _let_more_arrive(self) -> None:
        """Lets calls that are being read in right now join the batch, for as long as they keep coming."""
        quiet_turns = 0
        for _ in range(_GATHER_TURNS_MAX):
            queued = self._queued
            await asyncio.sleep(0)
            if self._queued >= self._batch_max:
                return
            quiet_turns = 0 if self._queued > queued else quiet_turns + 1
            if quiet_turns == _QUIET_TURNS:
                return

    def _take(self) -> list[_Entry]:
        """The next batch: whole entries, at least one, without those whose caller is gone."""
        entries: list[_Entry] = []
        size = 0
        while self._queue and (not entries or size + len(self._queue[0].commands) <= self._batch_max):
            entry = self._queue.popleft()
            self._queued -= len(entry.commands)
            if not entry.answered.done():
                entries.append(entry)
                size += len(entry.commands)
        return entries

    async def _run_entries(self, entries: list[_Entry]) -> None:
        commands = [command for entry in entries for command in entry.commands]
        answers = await self._answers(commands)
        at = 0
        for entry in entries:
            end = at + len(entry.commands)
            if not entry.answered.done():
                entry.answered.set_result(answers[at:end])
            at = end

    async def _answers(self, commands: Sequence[Command]) -> list[Answer]:
        """Runs the batch; where it fails by itself, runs its commands one by one so that only the culprits fail."""
        try:
            return await self._run_batch(commands)
        except _TRANSIENT as refusal:
            return [refusal for _ in commands]
        except Exception as error:  # noqa: BLE001 -- a lane must outlive whatever one command brings about.
            if len(commands) == 1:
                return [error]
        return [(await self._answers([command]))[0] for command in commands]

    async def _run_batch(self, commands: Sequence[Command]) -> list[Answer]:
        for tries_left in reversed(range(_TRIES)):
            try:
                return await self._run_once(commands)
            except _TRANSIENT:
                if not tries_left:
                    raise
            except ConstraintViolation as error:
                # Another process opened the account or took the operation id first: look again.
                if not tries_left or violated_constraint(error) not in _LOST_RACES:
                    raise
            await asyncio.sleep(_BACKOFF_S * 2 ** (_TRIES - tries_left - 1) * random.uniform(0.5, 1))
        raise AssertionError("the last try returns or raises")

    async def _run_once(self, commands: Sequence[Command]) -> list[Answer]:
        if self._careful_batches:
            self._careful_batches -= 1
            return await self._run_carefully(commands)
        return await self._run_quickly(commands) or await self._run_carefully(commands)

    async def _run_quickly(self, commands: Sequence[Command]) -> list[Answer] | None:
        """Posts the batch if all is as expected; None where it must be run the careful way. Nothing is written then."""
        now = self._clock.now()
        books = self._standing.take(commands, now)
        if books is None:
            return None
        answers = _decide_all(books, commands, now)
        if not all(isinstance(answer, Posted) for answer in answers):
            return None
        changed = books.changed_accounts.values()
        try:
            async with self._database.raw_connection() as connection:
                await standing_store.post_debits(connection, changed, books.new_movements)
        except ConstraintViolation:
            self._careful_batches = _CAREFUL_BATCHES
            return None
        self._keep(books)
        return answers

    def _keep(self, books: Books) -> None:
        """Remembers the accounts of a batch that is durable."""
        for account in books.changed_accounts.values():
            if account.is_new:
                account.is_new = False
            else:
                account.revision += 1
        self._standing.keep(books.accounts.values())

    async def _run_carefully(self, commands: Sequence[Command]) -> list[Answer]:
        async with self._database.raw_transaction() as connection:
            books, now = await self._open_books(connection, commands)
            answers = _decide_all(books, commands, now)
            await _close_books(connection, books, now)
            await _close_declines(connection, books, answers)
        self._keep(books)
        return answers

    async def _open_books(self, connection: RawConnection, commands: Sequence[Command]) -> tuple[Books, datetime]:
        """Locks the accounts first: what is read afterwards cannot change until the batch is through."""
        named = _Named(commands)
        books = Books()
        for account in await store.lock_accounts(
            connection, named.owners, holds=named.held, transactions=named.originals
        ):
            books.add_account(account)
        now = self._clock.now()
        due = [a for a in books.accounts.values() if a.hold_expiry_from is not None and a.hold_expiry_from <= now]
        if due:
            await store.expire_holds(connection, due, now)
            books.changed_accounts.update((account.account_id, account) for account in due)
        await _read_known(connection, books, named)
        return books, now


class _Named:
    """Everything the commands of a batch name, to be looked up at once."""

    __slots__ = ("held", "movements", "originals", "owners", "placed")

    def __init__(self, commands: Sequence[Command]) -> None:
        self.owners: set[tuple[str, str]] = set()
        self.movements: set[tuple[str, str]] = set()
        self.placed: set[tuple[str, str]] = set()
        self.held: set[tuple[str, str]] = set()
        self.originals: set[tuple[str, str]] = set()
        for command in commands:
            self._add(command)

    def _add(self, command: Command) -> None:
        organization_id = command.organization_id
        operation = (organization_id, command.operation_id)
        match command:
            case Debit() | Place():
                self.owners.add((organization_id, organization_id))
                if command.project_id is not None:
                    self.owners.add((organization_id, command.project_id))
                (self.movements if isinstance(command, Debit) else self.placed).add(operation)
            case Capture():
                self.movements.add(operation)
                self.held.add(operation)
            case Release() | Extend():
                self.held.add(operation)
            case Credit():
                self.owners.add((organization_id, command.project_id or organization_id))
                self.movements.add(operation)
            case Transfer():
                self.owners.add((organization_id, command.source_project_id or organization_id))
                self.owners.add((organization_id, command.destination_project_id or organization_id))
                self.movements.add(operation)
            case Reverse():
                self.movements.add(operation)
                self.originals.add((organization_id, command.transaction_id))


def _decide_all(books: Books, commands: Sequence[Command], now: datetime) -> list[Answer]:
    answers: list[Answer] = []
    for command in commands:
        try:
            answers.append(decide(books, command, now))
        except Refusal as refusal:
            answers.append(refusal)
    return answers


async def _read_known(connection: RawConnection, books: Books, named: _Named) -> None:
    """Reads what the operations stand for already."""
    keys = named.movements | named.placed
    if keys and await store.any_known(connection, keys):
        for movement in await store.find_movements(connection, keys):
            books.movements[movement.organization_id, movement.operation_id] = movement
        for decline in await store.find_declines(connection, keys):
            books.declines[decline.organization_id, decline.operation_id, decline.slot] = decline
    if named.placed or named.held:
        for hold in await store.find_holds(connection, named.placed | named.held):
            books.holds[hold.organization_id, hold.operation_id] = hold
    if named.originals:
        for original, reversed_amount in await store.find_originals(connection, named.originals):
            key = (original.organization_id, original.transaction_id)
            books.originals[key], books.reversed[key] = original, reversed_amount


async def _close_books(connection: RawConnection, books: Books, now: datetime) -> None:
    """Writes all that the batch decided, one statement a table and kind of change."""
    changed = books.changed_accounts.values()
    opened = [account for account in changed if account.is_new]
    if opened:
        await posting_store.insert_accounts(connection, opened, now)
    charges = [m for m in books.new_movements if m.kind is Kind.DEBIT or m.kind is Kind.CAPTURE]
    if charges:
        await posting_store.insert_charges(connection, charges)
    if len(charges) < len(books.new_movements):
        others = [m for m in books.new_movements if m.kind is not Kind.DEBIT and m.kind is not Kind.CAPTURE]
        await posting_store.insert_movements(connection, others)
    if len(opened) < len(changed):
        await posting_store.update_accounts(connection, [account for account in changed if not account.is_new])
    if books.new_holds:
        await posting_store.insert_holds(connection, books.new_holds)
        for hold in books.new_holds:
            books.changed_holds.pop((hold.organization_id, hold.operation_id), None)
    if books.changed_holds:
        await posting_store.update_holds(connection, books.changed_holds.values())


async def _close_declines(connection: RawConnection, books: Books, answers: Sequence[Answer]) -> None:
    """Adds to each new decline when a hold ends next by itself, and writes those that are to be kept."""
    waiting = [a for a in answers if isinstance(a, Decline) and a.is_new and a.balance.held]
    if waiting:
        expiries = await store.earliest_expiries(connection, {(d.organization_id, d.account_id) for d in waiting})
        for decline in waiting:
            decline.earliest_release_time = expiries.get(decline.account_id)
    if books.new_declines:
        await posting_store.insert_declines(connection, books.new_declines)
