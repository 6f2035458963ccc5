"""Decides what is taken back of what a payment has brought, and given back of that; and dispatches what grants do."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from libs.common.ids import new_id
from services.billing import errors
from services.billing.ledger.bookkeeping import (
    BALANCE_MAX,
    account_in,
    not_before,
    post,
)
from services.billing.ledger.books import Books
from services.billing.ledger.domain import (
    ZERO,
    Account,
    Direction,
    GiveBack,
    GrantCredits,
    Kind,
    Movement,
    Outcome,
    Returned,
    SettleGrants,
    Source,
    SystemAccount,
    TakeBack,
    VoidGrant,
)
from services.billing.ledger.grant_decisions import Taking, grant_credits, settle_grants, take_of_grant, void_grant


def operation_ids(command: TakeBack | GiveBack) -> list[str]:
    """Return the operation ids of the movements that a command may post, other than a grant's own."""
    if isinstance(command, GiveBack):
        return [f"{command.operation_id}:money"]
    places = range(len(command.sources))
    return [f"{command.operation_id}:{step}{place}" for step in ("left", "used") for place in places]


def decide_on_grants(
    books: Books, command: GrantCredits | VoidGrant | SettleGrants | TakeBack | GiveBack, now: datetime
) -> Outcome:
    """Decide a command that is about grants, or about what payments have brought."""
    match command:
        case GrantCredits():
            return grant_credits(books, command, now)
        case VoidGrant():
            return void_grant(books, command, now)
        case SettleGrants():
            return settle_grants(books, command)
        case TakeBack():
            return _take_back(books, command, now)
        case GiveBack():
            return _give_back(books, command, now)


def _take_back(books: Books, command: TakeBack, now: datetime) -> Returned:
    account = account_in(books, command.organization_id, command.organization_id, command.currency_code)
    if account is None:
        raise errors.AccountNotFound
    known = _known(books, command)
    if known:
        return Returned(account.balance(), known, replayed=True)
    if account.posted - command.amount <= -BALANCE_MAX:
        raise errors.BalanceOutOfRange
    moved: list[Movement] = []
    owed = command.amount
    for place, source in enumerate(command.sources):
        if source.grant_id is None or not owed:
            continue
        taking = Taking(f"{command.operation_id}:left{place}", command.description, command.actor)
        movement = take_of_grant(books, account, source.grant_id, owed, taking, now)
        if movement is not None:
            owed -= movement.amount
            moved.append(movement)
    for place, source in enumerate(command.sources):
        amount = min(owed, _takeable(books, account, command, source))
        if amount > ZERO:
            moved.append(_reverse(books, command, account, source, f"{command.operation_id}:used{place}", amount, now))
            owed -= amount
    return Returned(account.balance(), tuple(moved))


def _takeable(books: Books, account: Account, command: TakeBack, source: Source) -> Decimal:
    """Return how much of a movement can be taken back, other than out of what is left of its grant.

    Of a grant that is what was used, or is reserved by open holds. Of both, no more than was not taken back before.
    """
    key = (command.organization_id, source.transaction_id)
    original = books.originals.get(key)
    if original is None:
        raise errors.TransactionNotFound
    before = books.reversed.get(key, ZERO)
    if source.grant_id is None:
        left = original.amount - before
        return left if command.into_debt else min(left, max(account.available, ZERO))
    if not command.into_debt:
        return ZERO
    grant = books.changed_grants.get(source.grant_id) or books.known_grants.get(
        (command.organization_id, source.grant_operation_id or "")
    )
    return ZERO if grant is None else grant.amount - grant.expired - before


def _reverse(
    books: Books,
    command: TakeBack,
    account: Account,
    source: Source,
    operation_id: str,
    amount: Decimal,
    now: datetime,
) -> Movement:
    key = (command.organization_id, source.transaction_id)
    original = books.originals[key]
    movement = _movement(command, account, operation_id, -amount, original.system_account, now)
    movement.reverses_transaction_id = original.transaction_id
    post(books, command, movement, account)
    books.reversed[key] = books.reversed.get(key, ZERO) + amount
    return movement


def _give_back(books: Books, command: GiveBack, now: datetime) -> Returned:
    organization_id = command.organization_id
    account = account_in(books, organization_id, organization_id, command.currency_code)
    if account is None:
        raise errors.AccountNotFound
    known_grant = books.known_grants.get((organization_id, command.operation_id))
    known = _known(books, command)
    if known or known_grant is not None:
        return Returned(account.balance(), known, known_grant, replayed=True)
    amount = command.money + (ZERO if command.grant is None else command.grant.amount)
    # What was taken back while it was closed has left a debt, which may be given back.
    if account.closed and account.posted + amount > ZERO:
        raise errors.AccountClosed(account_id=account.account_id)
    if account.posted + amount >= BALANCE_MAX:
        raise errors.BalanceOutOfRange
    grant = None if command.grant is None else grant_credits(books, command.grant, now).grant
    if not command.money:
        return Returned(account.balance(), (), grant)
    operation_id = f"{command.operation_id}:money"
    movement = _movement(command, account, operation_id, command.money, command.money_from, now)
    post(books, command, movement, account)
    return Returned(account.balance(), (movement,), grant)


def _movement(
    command: TakeBack | GiveBack,
    account: Account,
    operation_id: str,
    signed: Decimal,
    system_account: SystemAccount | None,
    now: datetime,
) -> Movement:
    takes = signed < ZERO
    return Movement(
        organization_id=command.organization_id,
        operation_id=operation_id,
        transaction_id=new_id(),
        kind=Kind.REVERSAL if takes else Kind.CREDIT,
        project_id=None,
        account_id=account.account_id,
        sequence=account.sequence + 1,
        direction=Direction.DEBIT if takes else Direction.CREDIT,
        currency_code=account.currency_code,
        amount=abs(signed),
        balance_after=account.posted + signed,
        requested_amount=abs(signed),
        mode=None,
        overdrawn=takes and account.available + signed < ZERO,
        system_account=system_account,
        description=command.description,
        metadata=None,
        create_time=not_before(account, now),
        actor=command.actor,
    )


def _known(books: Books, command: TakeBack | GiveBack) -> tuple[Movement, ...]:
    """Return the movements of an earlier run of the command, in the order in which they were posted."""
    keys: Sequence[str] = operation_ids(command)
    found = (books.movements.get((command.organization_id, key)) for key in keys)
    return tuple(movement for movement in found if movement is not None)
