"""What becomes of each command: pure rules over the books of one batch, decided in the order of arrival.

Every rule first looks for what the operation id already stands for, then finds the account, then decides, and only then
writes into the books. A refusal that is not final (a closed account, another currency) is raised and leaves no trace.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from libs.common.errors import OperationIdReused
from libs.common.ids import new_id
from services.billing import errors
from services.billing.ledger.model import (
    ZERO,
    Account,
    Balance,
    Books,
    Capture,
    Command,
    Credit,
    Debit,
    Decline,
    Direction,
    Extend,
    Hold,
    HoldState,
    Kind,
    Mode,
    Movement,
    Outcome,
    Place,
    Placed,
    Posted,
    Release,
    Request,
    Reverse,
    Slot,
    SystemAccount,
    Transfer,
)
from services.billing.ledger.requests import first_difference, request_of, request_of_hold, request_of_movement

BALANCE_MAX: Final = Decimal(10) ** 15


def decide(books: Books, command: Command, now: datetime) -> Outcome:
    """Decides one command and enters its effect in the books.

    Raises:
        Refusal: the command is refused without a trace.
    """
    match command:
        case Debit():
            return _debit(books, command, now)
        case Capture():
            return _capture(books, command, now)
        case Place():
            return _place(books, command, now)
        case Release():
            return _release(books, command, now)
        case Credit():
            return _credit(books, command, now)
        case Transfer():
            return _transfer(books, command, now)
        case Extend():
            return _extend(books, command, now)
        case Reverse():
            return _reverse(books, command, now)


def _debit(books: Books, command: Debit, now: datetime) -> Outcome:
    known = _known_movement(books, command)
    if known is not None:
        return known
    account = _charged_account(books, command.organization_id, command.project_id, command.currency_code, now)
    if account.closed and command.mode is not Mode.MUST_POST:
        raise errors.AccountClosed(account_id=account.account_id)
    available = account.posted - account.held + account.overdraft_limit
    amount = command.amount
    if amount > available:
        if command.mode is Mode.GUARDED:
            return _decline(books, command, Slot.MOVEMENT, account, now)
        if command.mode is Mode.BEST_EFFORT:
            amount = max(available, ZERO)
    movement = Movement(
        command.organization_id,
        command.operation_id,
        new_id(),
        Kind.DEBIT,
        command.project_id,
        account.account_id,
        account.sequence + 1,
        Direction.DEBIT,
        account.currency_code,
        amount,
        account.posted - amount,
        command.amount,
        command.mode,
        amount > available,
        SystemAccount.REVENUE,
        command.description,
        command.metadata,
        _not_before(account, now),
    )
    return _post(books, command, movement, account)


def _credit(books: Books, command: Credit, now: datetime) -> Outcome:
    known = _known_movement(books, command)
    if known is not None:
        return known
    owner_id = command.project_id or command.organization_id
    account = _owners_account(books, command.organization_id, owner_id, command.currency_code)
    if account is None:
        account = new_account(command.organization_id, owner_id, command.currency_code)
    if account.closed:
        raise errors.AccountClosed(account_id=account.account_id)
    posted = account.posted + command.amount
    movement = Movement(
        organization_id=command.organization_id,
        operation_id=command.operation_id,
        transaction_id=new_id(),
        kind=Kind.CREDIT,
        project_id=command.project_id,
        account_id=account.account_id,
        sequence=account.sequence + 1,
        direction=Direction.CREDIT,
        currency_code=account.currency_code,
        amount=command.amount,
        balance_after=posted,
        requested_amount=command.amount,
        mode=None,
        overdrawn=False,
        system_account=command.source,
        description=command.description,
        metadata=command.metadata,
        create_time=_not_before(account, now),
    )
    return _post(books, command, movement, account)


def _transfer(books: Books, command: Transfer, now: datetime) -> Outcome:
    known = _known_movement(books, command)
    if known is not None:
        return known
    organization_id, currency_code = command.organization_id, command.currency_code
    source_id = command.source_project_id or organization_id
    destination_id = command.destination_project_id or organization_id
    source = _owners_account(books, organization_id, source_id, currency_code)
    if source is None:
        raise errors.AccountNotFound
    destination = _owners_account(books, organization_id, destination_id, currency_code)
    if destination is None:
        destination = new_account(organization_id, destination_id, currency_code)
    for account in (source, destination):
        if account.closed:
            raise errors.AccountClosed(account_id=account.account_id)
    if command.amount > source.available:
        return _decline(books, command, Slot.MOVEMENT, source, now)
    movement = Movement(
        organization_id=organization_id,
        operation_id=command.operation_id,
        transaction_id=new_id(),
        kind=Kind.TRANSFER,
        project_id=command.source_project_id,
        account_id=source.account_id,
        sequence=source.sequence + 1,
        direction=Direction.DEBIT,
        currency_code=currency_code,
        amount=command.amount,
        balance_after=source.posted - command.amount,
        requested_amount=command.amount,
        mode=None,
        overdrawn=False,
        system_account=None,
        description=command.description,
        metadata=command.metadata,
        create_time=max(_not_before(source, now), _not_before(destination, now)),
        counter_account_id=destination.account_id,
        counter_project_id=command.destination_project_id,
        counter_sequence=destination.sequence + 1,
        counter_balance_after=destination.posted + command.amount,
    )
    return _post(books, command, movement, source, destination)


def _reverse(books: Books, command: Reverse, now: datetime) -> Outcome:
    known = _known_movement(books, command)
    if known is not None:
        return known
    key = (command.organization_id, command.transaction_id)
    original = books.originals.get(key)
    if original is None:
        raise errors.TransactionNotFound
    if original.kind is Kind.REVERSAL:
        raise errors.ReversalOfReversal(transaction_id=original.transaction_id)
    if command.currency_code not in (None, original.currency_code):
        raise _mismatch(command.currency_code or "", [original.currency_code])
    left = original.amount - books.reversed.get(key, ZERO)
    amount = left if command.amount is None else command.amount
    if amount > left or amount == ZERO:
        raise errors.ReversalExceedsTransaction(remaining=left, amount=original.amount)
    posted = _post_reversal(books, command, original, amount, now)
    posted.remaining = left - amount
    if not command.validate_only:
        books.reversed[key] = original.amount - left + amount
    return posted


def _post_reversal(books: Books, command: Reverse, original: Movement, amount: Decimal, now: datetime) -> Posted:
    """Posts the original's movement the other way round. What is taken back may overdraw: it is flagged."""
    account = books.accounts[original.account_id]
    counter = books.accounts[original.counter_account_id] if original.counter_account_id else None
    direction = original.direction.opposite
    signed = amount if direction is Direction.CREDIT else -amount
    overdrawn = account.available + signed < ZERO if signed < ZERO else False
    create_time = _not_before(account, now)
    if counter is not None:
        overdrawn = overdrawn or counter.available - signed < ZERO
        create_time = max(create_time, _not_before(counter, now))
    movement = Movement(
        organization_id=command.organization_id,
        operation_id=command.operation_id,
        transaction_id=new_id(),
        kind=Kind.REVERSAL,
        project_id=original.project_id,
        account_id=account.account_id,
        sequence=account.sequence + 1,
        direction=direction,
        currency_code=original.currency_code,
        amount=amount,
        balance_after=account.posted + signed,
        requested_amount=command.amount,
        mode=None,
        overdrawn=overdrawn,
        system_account=original.system_account,
        description=command.description,
        metadata=command.metadata,
        create_time=create_time,
        counter_account_id=original.counter_account_id,
        counter_project_id=original.counter_project_id,
        counter_sequence=None if counter is None else counter.sequence + 1,
        counter_balance_after=None if counter is None else counter.posted - signed,
        reverses_transaction_id=original.transaction_id,
    )
    return _post(books, command, movement, account, counter)


def _place(books: Books, command: Place, now: datetime) -> Outcome:
    key = (command.organization_id, command.operation_id)
    hold = books.holds.get(key)
    if hold is not None:
        _require_same(command, request_of_hold(hold))
        return Placed(hold, books.accounts[hold.account_id].balance(), replayed=True)
    declined = books.declines.get((*key, Slot.HOLD))
    if declined is not None:
        _require_same(command, declined.request)
        return declined
    account = _charged_account(books, command.organization_id, command.project_id, command.currency_code, now)
    if account.closed:
        raise errors.AccountClosed(account_id=account.account_id)
    if command.amount > account.available:
        return _decline(books, command, Slot.HOLD, account, now)
    hold = Hold(
        organization_id=command.organization_id,
        operation_id=command.operation_id,
        hold_id=new_id(),
        project_id=command.project_id,
        account_id=account.account_id,
        currency_code=account.currency_code,
        amount=command.amount,
        ttl_ms=command.ttl_ms,
        state=HoldState.OPEN,
        description=command.description,
        metadata=command.metadata,
        create_time=now,
        expire_time=now + timedelta(milliseconds=command.ttl_ms),
    )
    balance = account.balance()
    balance.held += command.amount
    if not command.validate_only:
        account.held = balance.held
        if account.hold_expiry_from is None or hold.expire_time < account.hold_expiry_from:
            account.hold_expiry_from = hold.expire_time
        _touch(books, account)
        books.holds[key] = hold
        books.new_holds.append(hold)
    return Placed(hold, balance)


def _capture(books: Books, command: Capture, now: datetime) -> Outcome:
    known = _known_movement(books, command)
    if known is not None:
        return known
    hold = _hold(books, command)
    if hold.currency_code != command.currency_code:
        raise _mismatch(command.currency_code, [hold.currency_code])
    account = books.accounts[hold.account_id]
    held_amount = hold.amount if hold.state is HoldState.OPEN else ZERO
    movement = Movement(
        command.organization_id,
        command.operation_id,
        new_id(),
        Kind.CAPTURE,
        hold.project_id,
        account.account_id,
        account.sequence + 1,
        Direction.DEBIT,
        account.currency_code,
        command.amount,
        account.posted - command.amount,
        command.amount,
        None,
        command.amount > account.available + held_amount,
        SystemAccount.REVENUE,
        command.description,
        command.metadata,
        _not_before(account, now),
        held_amount=held_amount,
    )
    _require_in_range(movement)
    if hold.state is HoldState.OPEN:
        _end_hold(books, hold, HoldState.CAPTURED, account, now)
    return _post(books, command, movement, account)


def _release(books: Books, command: Release, now: datetime) -> Outcome:
    hold = _hold(books, command)
    account = books.accounts[hold.account_id]
    if hold.state is HoldState.CAPTURED:
        raise errors.HoldEnded(operation_id=hold.operation_id, state=hold.state)
    if hold.state is not HoldState.OPEN:
        return Placed(hold, account.balance(), replayed=hold.state is HoldState.RELEASED)
    _end_hold(books, hold, HoldState.RELEASED, account, now)
    return Placed(hold, account.balance(), released=hold.amount)


def _extend(books: Books, command: Extend, now: datetime) -> Outcome:
    hold = _hold(books, command)
    if hold.state is not HoldState.OPEN:
        raise errors.HoldEnded(operation_id=hold.operation_id, state=hold.state)
    hold.expire_time = max(hold.expire_time, now + timedelta(milliseconds=command.ttl_ms))
    books.changed_holds[hold.organization_id, hold.operation_id] = hold
    return Placed(hold, books.accounts[hold.account_id].balance())


def _known_movement(books: Books, command: Debit | Credit | Transfer | Capture | Reverse) -> Outcome | None:
    """The stored answer, where the operation id already stands for a movement or for a refused one."""
    key = (command.organization_id, command.operation_id)
    movement = books.movements.get(key)
    if movement is not None:
        _require_same(command, request_of_movement(movement))
        return _replay(books, movement)
    declined = books.declines.get((*key, Slot.MOVEMENT))
    if declined is not None:
        _require_same(command, declined.request)
    return declined


def _require_same(command: Command, known: Request) -> None:
    difference = first_difference(known, request_of(command))
    if difference is not None:
        raise OperationIdReused(operation_id=command.operation_id, field=difference)


def _replay(books: Books, movement: Movement) -> Posted:
    """The answer of then, but for what is held, which is that of now."""
    account = books.accounts[movement.account_id]
    balance = account.balance()
    balance.posted, balance.sequence = movement.balance_after, movement.sequence
    counter_balance = None
    if movement.counter_account_id is not None:
        counter_balance = books.accounts[movement.counter_account_id].balance()
        counter_balance.posted = movement.counter_balance_after or ZERO
        counter_balance.sequence = movement.counter_sequence or 0
    return Posted(movement, balance, counter_balance, replayed=True)


def _charged_account(
    books: Books, organization_id: str, project_id: str | None, currency_code: str, now: datetime
) -> Account:
    """The account that pays: the project's where it has one, else the organization's, which opens on first use."""
    if project_id is not None:
        candidates = [a for a in books.owned.get((organization_id, project_id), ()) if not a.closed]
        if candidates:
            return _in_currency(candidates, currency_code)
    candidates = books.owned.get((organization_id, organization_id), [])
    if candidates:
        return _in_currency(candidates, currency_code)
    return new_account(organization_id, organization_id, currency_code)


def _owners_account(books: Books, organization_id: str, owner_id: str, currency_code: str) -> Account | None:
    """Exactly the owner's account, or None where the owner has none at all."""
    candidates = books.owned.get((organization_id, owner_id))
    return _in_currency(candidates, currency_code) if candidates else None


def _in_currency(candidates: list[Account], currency_code: str) -> Account:
    for account in candidates:
        if account.currency_code == currency_code:
            return account
    raise _mismatch(currency_code, [account.currency_code for account in candidates])


def _mismatch(currency_code: str, account_currency_codes: list[str]) -> errors.CurrencyMismatch:
    return errors.CurrencyMismatch(
        currency_code=currency_code, account_currency_code=", ".join(sorted(account_currency_codes))
    )


def new_account(organization_id: str, owner_id: str, currency_code: str) -> Account:
    """An empty account, not in any books yet."""
    return Account(
        organization_id, new_id(), owner_id, currency_code, ZERO, ZERO, 0, ZERO, False, None, None, is_new=True
    )


def _hold(books: Books, command: Capture | Release | Extend) -> Hold:
    hold = books.holds.get((command.organization_id, command.operation_id))
    if hold is None:
        raise errors.HoldNotFound(operation_id=command.operation_id)
    return hold


def _end_hold(books: Books, hold: Hold, state: HoldState, account: Account, now: datetime) -> None:
    hold.state, hold.end_time = state, now
    account.held -= hold.amount
    books.changed_holds[hold.organization_id, hold.operation_id] = hold
    _touch(books, account)


def _decline(
    books: Books, command: Debit | Transfer | Place, slot: Slot, account: Account, now: datetime
) -> Decline:
    decline = Decline(
        command.organization_id,
        command.operation_id,
        slot,
        request_of(command),
        account.account_id,
        command.amount,
        account.balance(),
        now,
    )
    if not command.validate_only:
        if account.is_new:
            _touch(books, account)
        books.declines[command.organization_id, command.operation_id, slot] = decline
        books.new_declines.append(decline)
    return decline


def _post(
    books: Books, command: Command, movement: Movement, account: Account, counter: Account | None = None
) -> Posted:
    """Enters a movement, unless the command only asks; the balances in the answer are those after it."""
    _require_in_range(movement)
    balance = Balance(
        account.currency_code, movement.balance_after, account.held, account.overdraft_limit, movement.sequence
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
        books.movements[movement.organization_id, movement.operation_id] = movement
        books.new_movements.append(movement)
    return Posted(movement, balance, counter_balance)


def _move(books: Books, account: Account, after: Balance, time: datetime) -> None:
    account.posted, account.sequence, account.last_movement_time = after.posted, after.sequence, time
    _touch(books, account)


def _touch(books: Books, account: Account) -> None:
    books.changed_accounts[account.account_id] = account
    if account.is_new and account.account_id not in books.accounts:
        books.add_account(account)


def _not_before(account: Account, now: datetime) -> datetime:
    """The time of the account's next movement: times never run against the sequence, whatever the clocks do."""
    last = account.last_movement_time
    return now if last is None or now > last else last


def _require_in_range(movement: Movement) -> None:
    counter = movement.counter_balance_after
    if not -BALANCE_MAX < movement.balance_after < BALANCE_MAX or (
        counter is not None and not -BALANCE_MAX < counter < BALANCE_MAX
    ):
        raise errors.BalanceOutOfRange
