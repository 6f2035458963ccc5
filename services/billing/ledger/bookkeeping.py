"""What the rules share: finding the earlier outcome of an operation and its account, and entering effects."""

from datetime import datetime
from decimal import Decimal
from typing import Final

from libs.common.errors import OperationIdReused
from libs.common.ids import new_id
from services.billing import errors
from services.billing.ledger.books import Books
from services.billing.ledger.domain import (
    ZERO,
    Account,
    Balance,
    Capture,
    Command,
    Credit,
    Debit,
    Decline,
    Direction,
    Hold,
    HoldState,
    Movement,
    Outcome,
    Place,
    Posted,
    Request,
    Reverse,
    Slot,
    SystemAccount,
    Transfer,
)
from services.billing.ledger.grant_uses import unreserve
from services.billing.ledger.requests import first_difference, request_of, request_of_movement

BALANCE_MAX: Final = Decimal(10) ** 15


def known_movement(books: Books, command: Debit | Credit | Transfer | Capture | Reverse) -> Outcome | None:
    """Return the stored answer if the operation id already has a movement or a decline."""
    key = (command.organization_id, command.operation_id)
    movement = books.movements.get(key)
    if movement is not None:
        require_same(command, request_of_movement(movement))
        return _replay(books, movement)
    declined = books.declines.get((*key, Slot.MOVEMENT))
    if declined is not None:
        require_same(command, declined.request)
    return declined


def require_same(command: Command, known: Request) -> None:
    difference = first_difference(known, request_of(command))
    if difference is not None:
        raise OperationIdReused(operation_id=command.operation_id, field=difference)


def _replay(books: Books, movement: Movement) -> Posted:
    """Return the stored answer; only what is held is as of now."""
    account = books.locked_account(movement.account_id)
    balance = account.balance()
    balance.posted, balance.sequence = movement.balance_after, movement.sequence
    counter_balance = None
    if movement.counter_account_id is not None:
        counter_balance = books.locked_account(movement.counter_account_id).balance()
        counter_balance.posted = movement.counter_balance_after or ZERO
        counter_balance.sequence = movement.counter_sequence or 0
    return Posted(movement, balance, counter_balance, replayed=True)


def charged_account(books: Books, command: Debit | Place, *, opens: bool = False) -> Account:
    """Return the account that pays: the project's if it has one, else the organization's, which opens on first use.

    With `opens` it also opens where the organization has accounts in other units alone.
    """
    organization_id, project_id, currency_code = command.organization_id, command.project_id, command.currency_code
    if project_id is not None:
        candidates = [a for a in books.owned.get((organization_id, project_id), ()) if not a.closed]
        if candidates:
            return _in_currency(candidates, currency_code)
    candidates = books.owned.get((organization_id, organization_id), [])
    if opens:
        candidates = [account for account in candidates if account.currency_code == currency_code]
    if candidates:
        return _in_currency(candidates, currency_code)
    return new_account(organization_id, organization_id, currency_code)


def owners_account(books: Books, organization_id: str, owner_id: str, currency_code: str) -> Account | None:
    """Return the owner's own account, or None if the owner has none at all."""
    candidates = books.owned.get((organization_id, owner_id))
    return _in_currency(candidates, currency_code) if candidates else None


def account_in(books: Books, organization_id: str, owner_id: str, currency_code: str) -> Account | None:
    """Return the owner's own account in a unit, or None if the owner has none in it."""
    owned = books.owned.get((organization_id, owner_id), ())
    return next((account for account in owned if account.currency_code == currency_code), None)


def _in_currency(candidates: list[Account], currency_code: str) -> Account:
    for account in candidates:
        if account.currency_code == currency_code:
            return account
    raise mismatch(currency_code, [account.currency_code for account in candidates])


def mismatch(currency_code: str, account_currency_codes: list[str]) -> errors.CurrencyMismatch:
    return errors.CurrencyMismatch(
        currency_code=currency_code, account_currency_code=", ".join(sorted(account_currency_codes))
    )


def new_account(organization_id: str, owner_id: str, currency_code: str) -> Account:
    """Return an empty account that is not in any books yet."""
    return Account(
        organization_id, new_id(), owner_id, currency_code, ZERO, ZERO, 0, ZERO, False, None, None, is_new=True
    )


def hold_named(books: Books, organization_id: str, operation_id: str) -> Hold:
    hold = books.holds.get((organization_id, operation_id))
    if hold is None:
        raise errors.HoldNotFound(operation_id=operation_id)
    return hold


def end_hold(books: Books, hold: Hold, state: HoldState, account: Account, now: datetime) -> None:
    if books.account_grants:
        note_freed(books, account, hold, hold.reserved)
        unreserve(books, account, hold)
    account.held -= hold.reserved
    hold.state, hold.end_time = state, now
    books.changed_holds[hold.organization_id, hold.operation_id] = hold
    touch(books, account)


def count_part(books: Books, hold: Hold, amount: Decimal, account: Account) -> None:
    """Count a part of the hold's work as captured. What an open hold keeps back falls by it."""
    captured = hold.captured_amount + amount
    if captured >= BALANCE_MAX:
        raise errors.BalanceOutOfRange
    freed = min(amount, hold.reserved)
    if books.account_grants:
        note_freed(books, account, hold, freed)
        unreserve(books, account, hold)
    account.held -= freed
    hold.captured_amount = captured
    books.resized_holds[hold.organization_id, hold.operation_id] = hold
    touch(books, account)


def enter_decline(
    books: Books, command: Debit | Transfer | Place, slot: Slot, account: Account, balance: Balance, now: datetime
) -> Decline:
    decline = Decline(
        command.organization_id,
        command.operation_id,
        slot,
        request_of(command),
        account.account_id,
        command.amount,
        balance,
        now,
        command.actor,
    )
    if not command.validate_only:
        # The revision changes although the balance does not: another process that has cached the account must read it
        # again, and with it this decline.
        touch(books, account)
        books.declines[command.organization_id, command.operation_id, slot] = decline
        books.new_declines.append(decline)
    return decline


def post(
    books: Books, command: Command, movement: Movement, account: Account, counter: Account | None = None
) -> Posted:
    """Enter a movement, unless the command is `validate_only`. The balances in the answer are those after it."""
    require_in_range(movement)
    balance = Balance(
        account.currency_code,
        movement.balance_after,
        account.held,
        account.overdraft_limit,
        movement.sequence,
        account.scoped,
    )
    counter_balance = None
    if counter is not None:
        counter_balance = counter.balance()
        counter_balance.posted = movement.counter_balance_after or ZERO
        counter_balance.sequence = movement.counter_sequence or 0
    if not command.validate_only:
        _move(books, account, balance, movement.create_time)
        if counter is not None and counter_balance is not None:
            _move(books, counter, counter_balance, movement.create_time)
        if books.account_grants and movement.system_account is not SystemAccount.REVENUE:
            fund(books, movement)
        books.movements[movement.organization_id, movement.operation_id] = movement
        books.new_movements.append(movement)
    return Posted(movement, balance, counter_balance)


def fund(books: Books, movement: Movement) -> None:
    """Count a movement that is neither use nor its reversal as given to, or taken from, accounts that have grants."""
    for account_id in (movement.account_id, movement.counter_account_id):
        grants = books.account_grants.get(account_id or "")
        if grants is not None and account_id is not None:
            grants.funded += signed_for(movement, account_id)


def signed_for(movement: Movement, account_id: str) -> Decimal:
    """Return what a movement gives an account, negative for what it takes; zero where it is of other accounts."""
    gives = movement.amount if movement.direction is Direction.CREDIT else -movement.amount
    if movement.account_id == account_id:
        return gives
    return -gives if movement.counter_account_id == account_id else ZERO


def note_freed(books: Books, account: Account, hold: Hold, freed: Decimal) -> None:
    """Note that a hold reserves less, so that what it had reserved of expired grants can expire."""
    grants = books.account_grants.get(account.account_id)
    if grants is None or not freed:
        return
    if grants.itemized is not None:
        books.freed[account.account_id] = account
        return
    for end in grants.held_before:
        if hold.create_time < end:
            grants.held_before[end] -= freed
            books.freed[account.account_id] = account


def _move(books: Books, account: Account, after: Balance, time: datetime) -> None:
    account.posted, account.sequence, account.last_movement_time = after.posted, after.sequence, time
    touch(books, account)


def touch(books: Books, account: Account) -> None:
    books.changed_accounts[account.account_id] = account
    if account.is_new and account.account_id not in books.accounts:
        books.add_account(account)


def not_before(account: Account, now: datetime) -> datetime:
    """Return the time of the account's next movement: never before its last one, even if a clock was set back."""
    last = account.last_movement_time
    return now if last is None or now > last else last


def require_in_range(movement: Movement) -> None:
    counter = movement.counter_balance_after
    if not -BALANCE_MAX < movement.balance_after < BALANCE_MAX or (
        counter is not None and not -BALANCE_MAX < counter < BALANCE_MAX
    ):
        raise errors.BalanceOutOfRange
