"""Decides each command: pure rules over the books of one batch, in the order of arrival.

Every rule first looks for an earlier outcome of the operation id, then finds the account, then decides, and only then
changes the books. A refusal that is not final (a closed account, another currency) is raised, and nothing is stored.
"""

from datetime import datetime, timedelta
from decimal import Decimal

from libs.common.ids import new_id
from services.billing import errors
from services.billing.ledger.bookkeeping import (
    account_in,
    charged_account,
    count_part,
    end_hold,
    enter_decline,
    hold_named,
    known_movement,
    mismatch,
    new_account,
    not_before,
    owners_account,
    post,
    require_in_range,
    require_same,
    touch,
)
from services.billing.ledger.books import Books
from services.billing.ledger.domain import (
    ZERO,
    Account,
    Capture,
    Command,
    Credit,
    Debit,
    Decline,
    Direction,
    Extend,
    GiveBack,
    GrantCredits,
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
    Reverse,
    SettleGrants,
    Slot,
    SystemAccount,
    TakeBack,
    Transfer,
    VoidGrant,
)
from services.billing.ledger.grant_decisions import expiring_credits
from services.billing.ledger.grant_uses import (
    available_to,
    balance_for,
    enter_charge,
    enter_reversal,
    reserve,
    reserve_again,
)
from services.billing.ledger.requests import request_of, request_of_hold
from services.billing.ledger.returns import decide_on_grants


def decide(books: Books, command: Command, now: datetime) -> Outcome:
    """Decide one command and enter its effect in the books.

    Raises:
        Refusal: the command is refused and nothing is stored.
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
        case GrantCredits() | VoidGrant() | SettleGrants() | TakeBack() | GiveBack():
            return decide_on_grants(books, command, now)


def _debit(books: Books, command: Debit, now: datetime) -> Outcome:
    known = known_movement(books, command)
    if known is not None:
        return known
    account = charged_account(books, command, opens=command.opens_account)
    if account.closed and command.mode is not Mode.MUST_POST:
        raise errors.AccountClosed(account_id=account.account_id)
    available = account.posted - account.held + account.overdraft_limit
    if account.itemized_from is not None:
        available = available_to(books, account, command.user_id, command.model)
    amount = command.amount
    if amount > available:
        if command.mode is Mode.GUARDED:
            balance = balance_for(books, account, command.user_id, command.model)
            return enter_decline(books, command, Slot.MOVEMENT, account, balance, now)
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
        amount > max(available, ZERO),
        SystemAccount.REVENUE,
        command.description,
        command.metadata,
        not_before(account, now),
        actor=command.actor,
    )
    posted = post(books, command, movement, account)
    if account.itemized_from is not None:
        enter_charge(books, posted, account, command.user_id, command.model, validate_only=command.validate_only)
    return posted


def _credit(books: Books, command: Credit, now: datetime) -> Outcome:
    known = known_movement(books, command)
    if known is not None:
        return known
    owner_id = command.project_id or command.organization_id
    find = account_in if command.opens_account else owners_account
    account = find(books, command.organization_id, owner_id, command.currency_code)
    if account is None:
        account = new_account(command.organization_id, owner_id, command.currency_code)
    if account.closed:
        raise errors.AccountClosed(account_id=account.account_id)
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
        balance_after=account.posted + command.amount,
        requested_amount=command.amount,
        mode=None,
        overdrawn=False,
        system_account=command.source,
        description=command.description,
        metadata=command.metadata,
        create_time=not_before(account, now),
        actor=command.actor,
    )
    return post(books, command, movement, account)


def _transfer(books: Books, command: Transfer, now: datetime) -> Outcome:
    known = known_movement(books, command)
    if known is not None:
        return known
    organization_id, currency_code = command.organization_id, command.currency_code
    source_id = command.source_project_id or organization_id
    destination_id = command.destination_project_id or organization_id
    source = owners_account(books, organization_id, source_id, currency_code)
    if source is None:
        raise errors.AccountNotFound
    destination = owners_account(books, organization_id, destination_id, currency_code)
    if destination is None:
        destination = new_account(organization_id, destination_id, currency_code)
    for account in (source, destination):
        if account.closed:
            raise errors.AccountClosed(account_id=account.account_id)
    if command.amount > source.available:
        return enter_decline(books, command, Slot.MOVEMENT, source, source.balance(), now)
    expiring = expiring_credits(books, source)
    if command.amount > source.available - expiring:
        raise errors.ExpiringCreditsStay(transferable=max(source.available - expiring, ZERO), expiring=expiring)
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
        create_time=max(not_before(source, now), not_before(destination, now)),
        counter_account_id=destination.account_id,
        counter_project_id=command.destination_project_id,
        counter_sequence=destination.sequence + 1,
        counter_balance_after=destination.posted + command.amount,
        actor=command.actor,
    )
    return post(books, command, movement, source, destination)


def _reverse(books: Books, command: Reverse, now: datetime) -> Outcome:
    known = known_movement(books, command)
    if known is not None:
        return known
    key = (command.organization_id, command.transaction_id)
    original = books.originals.get(key)
    if original is None:
        raise errors.TransactionNotFound
    if original.kind is Kind.REVERSAL:
        raise errors.ReversalOfReversal(transaction_id=original.transaction_id)
    if original.kind in (Kind.GRANT, Kind.EXPIRY, Kind.VOID):
        raise errors.ReversalOfGrant(transaction_id=original.transaction_id)
    if command.currency_code not in (None, original.currency_code):
        raise mismatch(command.currency_code or "", [original.currency_code])
    left = original.amount - books.reversed.get(key, ZERO)
    amount = left if command.amount is None else command.amount
    if amount > left or amount == ZERO:
        raise errors.ReversalExceedsTransaction(remaining=left, amount=original.amount)
    posted = _post_reversal(books, command, original, amount, now)
    posted.remaining = left - amount
    if original.system_account is SystemAccount.REVENUE and not command.validate_only:
        enter_reversal(books, posted, books.locked_account(original.account_id), original.amount - left, now)
    if not command.validate_only:
        books.reversed[key] = original.amount - left + amount
    return posted


def _post_reversal(books: Books, command: Reverse, original: Movement, amount: Decimal, now: datetime) -> Posted:
    """Post the original's movement in the opposite direction. It may overdraw the account, and is then flagged."""
    account = books.locked_account(original.account_id)
    counter = books.locked_account(original.counter_account_id) if original.counter_account_id else None
    direction = original.direction.opposite
    signed = amount if direction is Direction.CREDIT else -amount
    overdrawn = account.available + signed < ZERO if signed < ZERO else False
    create_time = not_before(account, now)
    if counter is not None:
        overdrawn = overdrawn or counter.available - signed < ZERO
        create_time = max(create_time, not_before(counter, now))
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
        actor=command.actor,
    )
    return post(books, command, movement, account, counter)


def _place(books: Books, command: Place, now: datetime) -> Outcome:
    key = (command.organization_id, command.operation_id)
    hold = books.holds.get(key)
    if hold is not None:
        require_same(command, request_of_hold(hold))
        return Placed(hold, books.locked_account(hold.account_id).balance(), replayed=True)
    declined = books.declines.get((*key, Slot.HOLD))
    if declined is not None:
        require_same(command, declined.request)
        return declined
    account = charged_account(books, command)
    if account.closed:
        raise errors.AccountClosed(account_id=account.account_id)
    if command.amount > available_to(books, account, command.user_id, command.model):
        seen = balance_for(books, account, command.user_id, command.model)
        return enter_decline(books, command, Slot.HOLD, account, seen, now)
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
        actor=command.actor,
        user_id=command.user_id,
        model=command.model,
    )
    balance = account.balance()
    balance.held += command.amount
    if not command.validate_only:
        account.held = balance.held
        if account.hold_expiry_from is None or hold.expire_time < account.hold_expiry_from:
            account.hold_expiry_from = hold.expire_time
        touch(books, account)
        books.holds[key] = hold
        books.new_holds.append(hold)
        if account.itemized_from is not None:
            reserve(books, account, hold, hold.amount)
            balance.scoped = account.scoped
    return Placed(hold, balance)


def _capture(books: Books, command: Capture, now: datetime) -> Outcome:
    known = known_movement(books, command)
    if known is not None:
        return known
    is_part = command.hold_operation_id is not None
    hold = hold_named(books, command.organization_id, command.hold_operation_id or command.operation_id)
    if hold.currency_code != command.currency_code:
        raise mismatch(command.currency_code, [hold.currency_code])
    account = books.locked_account(hold.account_id)
    held_amount = hold.reserved
    freed = min(held_amount, command.amount) if is_part else held_amount
    user_id, model = hold.user_id, hold.model
    if user_id is None and model is None:
        user_id, model = command.user_id, command.model
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
        command.amount > max(available_to(books, account, user_id, model) + freed, ZERO),
        SystemAccount.REVENUE,
        command.description,
        command.metadata,
        not_before(account, now),
        held_amount=held_amount,
        actor=command.actor,
        hold_operation_id=command.hold_operation_id,
    )
    require_in_range(movement)
    if is_part:
        count_part(books, hold, command.amount, account)
    elif hold.state is HoldState.OPEN:
        end_hold(books, hold, HoldState.CAPTURED, account, now)
    posted = post(books, command, movement, account)
    if account.itemized_from is not None:
        uses = enter_charge(books, posted, account, user_id, model, validate_only=False)
        if hold.state is HoldState.OPEN:
            reserve_again(books, account, hold, uses)
            posted.balance.scoped = account.scoped
    return posted


def _release(books: Books, command: Release, now: datetime) -> Outcome:
    hold = hold_named(books, command.organization_id, command.operation_id)
    account = books.locked_account(hold.account_id)
    if hold.state is HoldState.CAPTURED:
        raise errors.HoldEnded(operation_id=hold.operation_id, state=hold.state)
    if hold.state is not HoldState.OPEN:
        return Placed(hold, account.balance(), replayed=hold.state is HoldState.RELEASED)
    released = hold.reserved
    end_hold(books, hold, HoldState.RELEASED, account, now)
    return Placed(hold, account.balance(), released=released)


def _extend(books: Books, command: Extend, now: datetime) -> Outcome:
    hold = hold_named(books, command.organization_id, command.operation_id)
    if hold.state is not HoldState.OPEN:
        raise errors.HoldEnded(operation_id=hold.operation_id, state=hold.state)
    account = books.locked_account(hold.account_id)
    if command.currency_code not in (None, hold.currency_code):
        raise mismatch(command.currency_code or "", [hold.currency_code])
    if command.amount is not None and command.amount > hold.amount:
        refused = _enlarge(books, command, hold, account, command.amount, now)
        if refused is not None:
            return refused
    hold.expire_time = max(hold.expire_time, now + timedelta(milliseconds=command.ttl_ms))
    books.changed_holds[hold.organization_id, hold.operation_id] = hold
    return Placed(hold, account.balance())


def _enlarge(
    books: Books, command: Extend, hold: Hold, account: Account, amount: Decimal, now: datetime
) -> Decline | None:
    """Let a hold have a larger amount, or return the decline, which is not entered: a repeat is decided anew."""
    if account.closed:
        raise errors.AccountClosed(account_id=account.account_id)
    needed = max(amount - hold.captured_amount, ZERO) - hold.reserved
    if needed > max(available_to(books, account, hold.user_id, hold.model), ZERO):
        return Decline(
            command.organization_id,
            command.operation_id,
            Slot.HOLD,
            request_of(command),
            account.account_id,
            needed,
            balance_for(books, account, hold.user_id, hold.model),
            now,
            actor=None,
        )
    if hold.requested_amount is None:
        hold.requested_amount = hold.amount
    hold.amount = amount
    books.resized_holds[hold.organization_id, hold.operation_id] = hold
    account.held += needed
    if account.itemized_from is not None:
        reserve(books, account, hold, needed)
    touch(books, account)
    return None
