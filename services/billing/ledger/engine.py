"""The ledger's engine: every command is decided and posted here, in batches (see `libs.common.group_commit`).

There are two ways to run a batch. The careful one locks the accounts, reads what is stored for the operation ids,
decides and writes. The quick one is for debits, new holds and captures, on accounts that this process wrote last and of
holds that it placed. It assumes that these are still as this process remembers them and that the operation ids are
new, and one statement checks all of that while it writes. If an assumption is wrong, or a command would be refused,
nothing is written and the batch is run the careful way: a command may be refused only because of data that was read
under a lock.

Accounts with grants for certain users or models are always decided the careful way, apart from the others of a batch.

A command may have more written in its transaction (`also` in `domain`), so that both are
there or neither is.

Operation ids make it safe to run a batch again when it is not known whether its commit succeeded: the second run finds
what the first one wrote. Several processes may run batches side by side: row locks and unique keys keep them correct.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, TypeAlias

from libs.common.clock import Clock
from libs.common.database import ConstraintViolation, Database, RawConnection
from libs.common.errors import Conflict, Refusal
from libs.common.group_commit import BatchLimits, GroupCommit
from libs.common.shards import Shards
from services.billing.ledger import grant_store, posting_store, standing_store, store
from services.billing.ledger.books import Books
from services.billing.ledger.decisions import decide
from services.billing.ledger.domain import (
    Account,
    Balance,
    Capture,
    Command,
    Credit,
    Debit,
    Decline,
    Extend,
    GiveBack,
    GrantCredits,
    Granted,
    Kind,
    Movement,
    Outcome,
    Place,
    Placed,
    Posted,
    Release,
    Returned,
    Reverse,
    Settled,
    SettleGrants,
    TakeBack,
    Transfer,
    VoidGrant,
)
from services.billing.ledger.expiries import EXPIRED_HOLDS
from services.billing.ledger.grant_decisions import settle_due
from services.billing.ledger.grant_events import announce_expired
from services.billing.ledger.returns import operation_ids
from services.billing.ledger.standing import StandingAccounts

Answer: TypeAlias = Outcome | Exception
"""The result of a command: an outcome, or the exception it failed with (a refusal, or an unexpected error)."""

_CAREFUL_BATCHES: Final = 32
"""How many batches run the careful way after one whose assumptions were wrong: the next are likely to be wrong too."""
_SHARDS_IN_ROUND_MAX: Final = 3
"""How many shards have a batch in a round. With 64 debits in flight over eight shards, CPU per debit in all processes
was least with 2 or 3 (616 and 602 µs; 651 with 4, 639 with 8): fewer make larger batches, more make larger bursts."""
_WAIT_MAX_S: Final = 0.02
"""How long batches wait for others that are slow; a batch usually takes 1 to 5 ms."""
_LOST_RACES: Final = frozenset(
    {
        *("accounts_owner_currency_once", "transactions_operation_once", "transactions_sequence_once"),
        *("holds_operation_once", "declines_operation_once"),
        *("credit_grants_operation_once", "grant_standings_pkey", "grant_uses_pkey"),
    }
)
"""Unique keys that are violated when another process inserts the same value between our read and our write."""


class Engine:
    """Decides and posts commands in batches; see the module."""

    def __init__(
        self, shards: Shards, clock: Clock, *, batch_max: int = 500, queue_max: int = 20_000, lanes: int = 2
    ) -> None:
        self._clock = clock
        limits = BatchLimits(
            items_max=batch_max,
            queued_max=queue_max,
            running_max=lanes,
            shards_max=_SHARDS_IN_ROUND_MAX,
            full_at=batch_max,
            wait_max_s=_WAIT_MAX_S,
        )
        self._commits: GroupCommit[Command, Outcome] = GroupCommit(
            "ledger", self._run, shards, limits, lambda command: command.organization_id
        )
        self._standing = StandingAccounts()
        self._careful_batches = 0

    async def submit(self, commands: Sequence[Command]) -> list[Answer]:
        """Decide the commands in their order and return the result of each, once it is durable.

        Raises:
            Overloaded: too many commands wait already, or the service is going down. No command was taken.
        """
        return await self._commits.submit(commands)

    async def grant(self, command: GrantCredits | VoidGrant) -> Granted:
        """Grant credits, or void a grant; a repeat returns what the first one did.

        Raises:
            OperationIdReused: the operation has granted something else.
            GrantExpired: the end has passed.
            CurrencyMismatch, AccountClosed, BalanceOutOfRange: as for a credit.
            TooManyGrants: the account has 1,000 grants that have not ended.
            GrantNotFound, GrantEnded: there is nothing to void.
            Overloaded: as `submit`.
        """
        (answer,) = await self.submit([command])
        if isinstance(answer, Exception):
            raise answer
        if not isinstance(answer, Granted):
            raise TypeError(answer)
        return answer

    async def settle_grants(self, accounts: Sequence[SettleGrants]) -> list[Balance]:
        """Let the grants of accounts begin and expire that are due; return the accounts' balances.

        Raises:
            Refusal: the first with which one of them fails.
            Overloaded: as `submit`.
        """
        balances: list[Balance] = []
        for answer in await self.submit(accounts):
            if isinstance(answer, Exception):
                raise answer
            if not isinstance(answer, Settled):
                raise TypeError(answer)
            balances.append(answer.balance)
        return balances

    async def drain(self) -> None:
        """Take no more commands, and return when every submitted one is answered."""
        await self._commits.drain()

    async def _run(
        self, database: Database, commands: Sequence[Command], let_next_begin: Callable[[], None]
    ) -> list[Answer]:
        let_next_begin()  # Batches may run at the same time: the locks on the accounts prevent conflicts.
        try:
            return await self._run_once(database, commands)
        except ConstraintViolation as error:
            if error.constraint in _LOST_RACES:
                raise Conflict from error
            raise

    async def _run_once(self, database: Database, commands: Sequence[Command]) -> list[Answer]:
        if self._careful_batches:
            self._careful_batches -= 1
            return await self._run_carefully(database, commands)
        answers = await self._run_quickly(database, commands)
        if answers is not None:
            return answers
        apart = self._standing.apart(commands)
        if not 0 < len(apart) < len(commands):
            return await self._run_carefully(database, commands)
        return await self._run_apart(database, commands, apart)

    async def _run_apart(self, database: Database, commands: Sequence[Command], apart: set[int]) -> list[Answer]:
        """Run some commands of a batch the careful way, and then the others the quick way, if they can be."""
        careful = iter(await self._run_carefully(database, [commands[place] for place in sorted(apart)]))
        others = [command for place, command in enumerate(commands) if place not in apart]
        quick = iter(await self._run_quickly(database, others) or await self._run_carefully(database, others))
        return [next(careful if place in apart else quick) for place in range(len(commands))]

    async def _run_quickly(self, database: Database, commands: Sequence[Command]) -> list[Answer] | None:
        """Post the batch and return its answers. None if it must be run the careful way: nothing is written then."""
        now = self._clock.now()
        books = self._standing.take(commands, now)
        if books is None:
            return None
        answers = _decide_all(books, commands, now)
        if not all(isinstance(answer, Posted | Placed) for answer in answers):
            return None
        try:
            async with database.raw_connection() as connection:
                await standing_store.post(connection, books, now)
        except ConstraintViolation:
            self._careful_batches = _CAREFUL_BATCHES
            return None
        self._keep(books)
        return answers

    def _keep(self, books: Books) -> None:
        """Cache the accounts and holds of a batch that has been committed."""
        for account in books.changed_accounts.values():
            if account.is_new:
                account.is_new = False
            else:
                account.revision += 1
        self._standing.keep(books)

    async def _run_carefully(self, database: Database, commands: Sequence[Command]) -> list[Answer]:
        async with database.raw_transaction() as connection:
            books, now = await self._open_books(connection, commands)
            answers = _decide_all(books, commands, now)
            await _close_books(connection, books, now)
            await _close_declines(connection, books, answers)
            await _write_also(connection, commands, answers)
        EXPIRED_HOLDS.add(books.expired_hold_count)
        self._keep(books)
        return answers

    async def _open_books(self, connection: RawConnection, commands: Sequence[Command]) -> tuple[Books, datetime]:
        """Lock the accounts first: what is read afterwards cannot change before the transaction ends."""
        named = _Named(commands)
        books = Books()
        for account in await store.lock_accounts(
            connection, named.owners, holds=named.held, transactions=named.originals
        ):
            books.add_account(account)
        now = self._clock.now()
        due = [a for a in books.accounts.values() if a.hold_expiry_from is not None and a.hold_expiry_from <= now]
        if due:
            books.expired_hold_count = await store.expire_holds(connection, due, now)
            books.changed_accounts.update((account.account_id, account) for account in due)
        await _settle_grants(connection, books, named, now)
        await _read_known(connection, books, named)
        return books, now


class _Named:
    """The keys of everything that the commands of a batch refer to, so that it can be read with few queries."""

    __slots__ = ("granted", "granting", "held", "movements", "originals", "owners", "passing_on", "placed", "scoping")

    def __init__(self, commands: Sequence[Command]) -> None:
        self.owners: set[tuple[str, str]] = set()
        self.movements: set[tuple[str, str]] = set()
        self.placed: set[tuple[str, str]] = set()
        self.held: set[tuple[str, str]] = set()
        self.originals: set[tuple[str, str]] = set()
        self.passing_on: set[tuple[str, str]] = set()
        self.granted: set[tuple[str, str]] = set()
        self.granting: set[tuple[str, str, str]] = set()
        self.scoping: set[tuple[str, str, str]] = set()
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
                self.held.add((organization_id, command.hold_operation_id or command.operation_id))
            case Release() | Extend():
                self.held.add(operation)
            case Credit():
                self.owners.add((organization_id, command.project_id or organization_id))
                self.movements.add(operation)
            case Transfer():
                self.owners.add((organization_id, command.source_project_id or organization_id))
                self.owners.add((organization_id, command.destination_project_id or organization_id))
                self.passing_on.add((organization_id, command.source_project_id or organization_id))
                self.movements.add(operation)
            case Reverse():
                self.movements.add(operation)
                self.originals.add((organization_id, command.transaction_id))
            case TakeBack() | GiveBack():
                self._add_return(command)
            case GrantCredits() | VoidGrant() | SettleGrants():
                owner_id = command.project_id or organization_id
                self.owners.add((organization_id, owner_id))
                self.granting.add((organization_id, owner_id, command.currency_code))
                if isinstance(command, GrantCredits):
                    self.granted.add(operation)
                    if command.user_id is not None or command.model is not None:
                        self.scoping.add((organization_id, owner_id, command.currency_code))

    def _add_return(self, command: TakeBack | GiveBack) -> None:
        organization_id = command.organization_id
        self.owners.add((organization_id, organization_id))
        self.granting.add((organization_id, organization_id, command.currency_code))
        self.movements.update((organization_id, operation_id) for operation_id in operation_ids(command))
        if isinstance(command, TakeBack):
            self.originals.update((organization_id, source.transaction_id) for source in command.sources)
            of_grants = (source.grant_operation_id for source in command.sources)
            self.granted.update((organization_id, one) for one in of_grants if one is not None)
        else:
            self.granted.add((organization_id, command.operation_id))


def _decide_all(books: Books, commands: Sequence[Command], now: datetime) -> list[Answer]:
    answers: list[Answer] = []
    for command in commands:
        try:
            answers.append(decide(books, command, now))
            while books.freed:
                settle_due(books, books.freed.popitem()[1], now)
        except Conflict:
            raise
        except Refusal as refusal:
            answers.append(refusal)
    return answers


async def _write_also(connection: RawConnection, commands: Sequence[Command], answers: Sequence[Answer]) -> None:
    """Write what is to be written with commands that are posted anew."""
    for command, answer in zip(commands, answers, strict=True):
        if isinstance(command, Credit | GrantCredits | TakeBack | GiveBack) and command.also is not None:
            is_new = isinstance(answer, Posted | Granted | Returned) and not answer.replayed
            if is_new and not command.validate_only and not isinstance(answer, Exception):
                await command.also(connection, answer)


async def _settle_grants(connection: RawConnection, books: Books, named: _Named, now: datetime) -> None:
    """Let grants begin and expire that are due, and read those that commands are about. Most batches meet none."""
    accounts = [a for a in books.accounts.values() if _meets_grants(a, named, now)]
    if named.granting:
        accounts += [
            account
            for account in books.accounts.values()
            if account.grant_due_from is None and account.itemized_from is None and _key(account) in named.granting
        ]
    if accounts:
        books.account_grants = await grant_store.find_account_grants(connection, accounts, now)
        scoping = [a for a in accounts if a.itemized_from is None and a.held and _key(a) in named.scoping]
        if scoping:
            await grant_store.read_open_holds(connection, scoping, books.account_grants)
        for account in accounts:
            settle_due(books, account, now)
    if named.granted:
        for grant in await grant_store.find_known_grants(connection, named.granted):
            books.known_grants[grant.organization_id, grant.operation_id] = grant


def _meets_grants(account: Account, named: _Named, now: datetime) -> bool:
    """Return whether the batch must know the grants of an account that has some which it must enter charge by charge,
    or which will begin or expire."""
    if account.itemized_from is not None:
        return True
    if account.grant_due_from is None:
        return False
    if account.grant_due_from <= now:
        return True
    return (account.organization_id, account.owner_id) in named.passing_on or _key(account) in named.granting


def _key(account: Account) -> tuple[str, str, str]:
    return account.organization_id, account.owner_id, account.currency_code


async def _read_known(connection: RawConnection, books: Books, named: _Named) -> None:
    """Read what is already stored for the operations."""
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
        itemized = [m for m in books.originals.values() if _is_itemized(books, m)]
        if itemized:
            uses = await grant_store.find_uses(connection, itemized)
            books.known_uses = {(m.organization_id, m.transaction_id): uses.get(m.transaction_id, []) for m in itemized}


def _is_itemized(books: Books, movement: Movement) -> bool:
    account = books.accounts.get(movement.account_id)
    return account is not None and account.itemized_from is not None


async def _close_books(connection: RawConnection, books: Books, now: datetime) -> None:
    """Write everything the batch decided, one statement per table and kind of change."""
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
    if books.resized_holds:
        await posting_store.update_hold_amounts(connection, books.resized_holds.values())
    if books.reserving_holds:
        await posting_store.update_reserves(connection, books.reserving_holds.values())
    if books.due_changed or books.new_uses:
        await _close_grants(connection, books, now)


async def _close_grants(connection: RawConnection, books: Books, now: datetime) -> None:
    """Write what became of grants."""
    new = [books.changed_grants.pop(grant_id, grant) for grant_id, grant in books.new_grants.items()]
    if new:
        await grant_store.insert_grants(connection, new)
    if books.changed_grants:
        await grant_store.update_grants(connection, books.changed_grants.values())
        await announce_expired(connection, books.changed_grants.values(), now)
    if books.new_standings:
        await grant_store.insert_standings(connection, books.new_standings)
    if books.new_uses:
        await grant_store.insert_uses(connection, books.new_uses)
    if books.due_changed:
        await grant_store.update_due(connection, books.due_changed)


async def _close_declines(connection: RawConnection, books: Books, answers: Sequence[Answer]) -> None:
    """Add to each new decline when the next hold expires, and write the declines that are stored."""
    waiting = [a for a in answers if isinstance(a, Decline) and a.is_new and a.balance.held]
    if waiting:
        expiries = await store.earliest_expiries(connection, {(d.organization_id, d.account_id) for d in waiting})
        for decline in waiting:
            decline.earliest_release_time = expiries.get(decline.account_id)
    if books.new_declines:
        await posting_store.insert_declines(connection, books.new_declines)
