"""Decides what grants do to the books of a batch: they begin, expire, are granted and voided.

Grants that are due begin and expire before the first command of a batch is decided, and again when a hold ends that had
reserved some of one that has expired. So no command ever sees credits that have expired.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from libs.common.errors import OperationIdReused
from libs.common.ids import new_id
from services.billing import errors
from services.billing.ledger.bookkeeping import (
    BALANCE_MAX,
    account_in,
    fund,
    new_account,
    not_before,
    owners_account,
    signed_for,
    touch,
)
from services.billing.ledger.books import AccountGrants, Books
from services.billing.ledger.domain import (
    ZERO,
    Account,
    Direction,
    GrantCredits,
    Granted,
    Kind,
    Movement,
    Settled,
    SettleGrants,
    SystemAccount,
    VoidGrant,
)
from services.billing.ledger.grant_uses import set_aside_for_open_holds
from services.billing.ledger.grants import (
    Event,
    Grant,
    GrantState,
    Standing,
    Step,
    due_steps,
    next_due,
    take_out,
)
from services.billing.ledger.itemized import Itemized
from services.billing.ledger.requests import first_difference, request_of, request_of_grant

GRANTS_MAX: Final = 1_000
"""How many grants of an account may be scheduled or active."""
GRANT_ID: Final = "grant_id"
"""The label of a movement that names its grant."""


def settle_due(books: Books, account: Account, now: datetime) -> None:
    """Let the account's grants begin and expire that are due."""
    of_account = books.account_grants[account.account_id]
    standing, used = of_account.standing, of_account.funded - account.posted
    if of_account.itemized is not None:
        if account.grant_due_from is None or account.grant_due_from > now:
            return
        standing = of_account.present(account.posted)
    standing, steps = due_steps(standing, used, of_account.scheduled, now, of_account.reserved(account.held))
    _enter(books, account, of_account, standing, steps)


def grant_credits(books: Books, command: GrantCredits, now: datetime) -> Granted:
    """Grant credits, now or for later."""
    known = books.known_grants.get((command.organization_id, command.operation_id))
    if known is not None:
        difference = first_difference(request_of_grant(known), request_of(command))
        if difference is not None:
            raise OperationIdReused(operation_id=command.operation_id, field=difference)
        return Granted(known, books.locked_account(known.account_id).balance(), replayed=True)
    owner_id = command.project_id or command.organization_id
    find = account_in if command.opens_account else owners_account
    account = find(books, command.organization_id, owner_id, command.currency_code)
    if account is None:
        account = new_account(command.organization_id, owner_id, command.currency_code)
    if account.closed:
        raise errors.AccountClosed(account_id=account.account_id)
    if command.expire_time is not None and command.expire_time <= now and not command.may_be_over:
        raise errors.GrantExpired(expire_time=command.expire_time.isoformat())
    of_account = books.account_grants.get(account.account_id) or _of_new_account(books, account)
    if len(of_account.standing.grants) + len(of_account.scheduled) >= GRANTS_MAX:
        raise errors.TooManyGrants(grants=GRANTS_MAX)
    grant = _new_grant(command, account, now)
    if account.posted + grant.amount >= BALANCE_MAX:
        raise errors.BalanceOutOfRange
    touch(books, account)
    books.account_grants[account.account_id] = of_account
    if grant.is_scoped and account.itemized_from is None:
        _itemize(books, account, of_account)
    books.known_grants[command.organization_id, command.operation_id] = grant
    books.new_grants[grant.grant_id] = grant
    of_account.scheduled.append(grant)
    set_due(books, account, of_account)
    if grant.effective_time <= now:
        settle_due(books, account, now)
        grant = books.changed_grants[grant.grant_id]
    return Granted(grant, account.balance())


def void_grant(books: Books, command: VoidGrant, now: datetime) -> Granted:
    """Take back what is left of a grant. What holds reserve of it is taken back as they end."""
    account = owners_account(
        books, command.organization_id, command.project_id or command.organization_id, command.currency_code
    )
    of_account = None if account is None else books.account_grants.get(account.account_id)
    if account is None or of_account is None:
        raise errors.GrantNotFound
    for scheduled in of_account.scheduled:
        if scheduled.grant_id == command.operation_id:
            of_account.scheduled.remove(scheduled)
            ended = replace(scheduled, state=GrantState.ENDED, rest=ZERO, expired=scheduled.amount)
            voided = _marked(ended, command, now)
            books.changed_grants[voided.grant_id] = voided
            set_due(books, account, of_account)
            return Granted(voided, account.balance(), voided=scheduled.amount)
    standing = of_account.present(account.posted)
    active = next((one for one in standing.grants if one.grant_id == command.operation_id), None)
    if active is None or not active.rest:
        raise errors.GrantEnded(grant_id=command.operation_id)
    if active.void_time is not None:
        return Granted(active, account.balance(), replayed=True, voided=ZERO)
    # Another process has begun it, whose clock may be ahead. It does not end before it began.
    moment = max(now, active.effective_time)
    marked = _marked(active, command, moment)
    standing = replace(
        standing, grants=tuple(marked if one.grant_id == marked.grant_id else one for one in standing.grants)
    )
    if marked.holds_before is not None:
        of_account.held_before[marked.holds_before] = account.held
    standing, steps = due_steps(standing, standing.used, (), moment, of_account.reserved(account.held))
    _enter(books, account, of_account, standing, steps)
    voided = books.changed_grants[marked.grant_id]
    return Granted(voided, account.balance(), voided=sum((step.amount for step in steps), ZERO))


@dataclass(frozen=True, slots=True)
class Taking:
    """Why credits are taken out of a grant that goes on."""

    operation_id: str
    reason: str
    actor: str


def take_of_grant(
    books: Books, account: Account, grant_id: str, amount_max: Decimal, taking: Taking, now: datetime
) -> Movement | None:
    """Take back what is left of a grant, up to an amount. None where nothing is left that no open hold reserves."""
    of_account = books.account_grants.get(account.account_id)
    if of_account is None:
        return None
    standing, step = take_out(
        of_account.present(account.posted), grant_id, amount_max, now, of_account.reserved(account.held)
    )
    if step is None:
        return None
    _enter(books, account, of_account, standing, [step], taking)
    return books.movements[account.organization_id, taking.operation_id]


def _marked(grant: Grant, command: VoidGrant, now: datetime) -> Grant:
    return replace(grant, void_time=now, void_reason=command.reason, void_actor=command.actor)


def settle_grants(books: Books, command: SettleGrants) -> Settled:
    """Say what the account has, once its grants that are due have begun and expired."""
    owner_id = command.project_id or command.organization_id
    account = owners_account(books, command.organization_id, owner_id, command.currency_code)
    if account is None:
        raise errors.AccountNotFound
    return Settled(account.balance())


def expiring_credits(books: Books, account: Account) -> Decimal:
    """Return what an account has in credits that expire. They cannot be passed on, or they would not expire there."""
    of_account = books.account_grants.get(account.account_id)
    if of_account is None:
        return ZERO
    grants = of_account.present(account.posted).grants
    return sum((grant.rest for grant in grants if grant.end_time is not None and not grant.is_scoped), ZERO)


def _itemize(books: Books, account: Account, of_account: AccountGrants) -> None:
    """Enter charges of the account grant by grant from now on: it gets its first grant that is not for all of them.

    What is left of its grants is entered as of now, and what open holds reserve of them.
    """
    standing = of_account.present(account.posted)
    for grant in standing.grants:
        books.changed_grants[grant.grant_id] = grant
    of_account.standing = standing
    if account.sequence > of_account.sequence:
        of_account.sequence = account.sequence
        books.new_standings.append((account, account.sequence, of_account.funded, standing))
    account.itemized_from = account.sequence
    of_account.itemized = Itemized(standing.grants, {})
    set_aside_for_open_holds(books, account, of_account.open_holds)


def _enter(
    books: Books,
    account: Account,
    of_account: AccountGrants,
    standing: Standing,
    steps: Sequence[Step],
    taking: Taking | None = None,
) -> None:
    """Enter what has become of an account's grants: movements, the grants, and the standing as of now.

    Where nothing became of them but that they were used, nothing is entered: their rests follow from the last standing.
    """
    for step in steps:
        _post(books, account, step, taking)
    itemized = of_account.itemized
    before = of_account.standing.grants if itemized is None else tuple(itemized.grants.values())
    moved = {step.grant.grant_id: step.grant for step in steps}
    left = {grant.grant_id for grant in standing.grants}
    over = [
        replace(grant, rest=ZERO, state=GrantState.ENDED)
        for grant in before
        if grant.grant_id not in left and grant.grant_id not in moved
    ]
    known = {grant.grant_id: grant for grant in before}
    marked = [grant for grant in standing.grants if grant.void_time != known.get(grant.grant_id, grant).void_time]
    if not steps and not over and not marked:
        return
    # Where uses are entered, the grants are stored as they are already.
    for grant in (*moved.values(), *over, *(standing.grants if itemized is None else marked)):
        books.changed_grants[grant.grant_id] = grant
    of_account.standing = replace(standing, used=of_account.funded - account.posted)
    stored = of_account.standing
    if itemized is not None:
        itemized.replace(standing.grants)
        account.scoped = itemized.scoped
        stored = Standing(stored.used, ZERO, ())
    of_account.scheduled = [grant for grant in of_account.scheduled if grant.grant_id not in moved]
    if account.sequence > of_account.sequence:
        of_account.sequence = account.sequence
        books.new_standings.append((account, account.sequence, of_account.funded, stored))
    set_due(books, account, of_account)


def set_due(books: Books, account: Account, of_account: AccountGrants) -> None:
    account.grant_due_from = next_due([*of_account.standing.grants, *of_account.scheduled])
    books.due_changed[account.account_id] = account
    touch(books, account)


def _of_new_account(books: Books, account: Account) -> AccountGrants:
    """Return the grants, none, of an account that the batch opens, and what the batch has given it before."""
    funded = ZERO
    for movement in books.new_movements:
        if movement.system_account is not SystemAccount.REVENUE:
            funded += signed_for(movement, account.account_id)
    used = funded - account.posted
    return AccountGrants(funded, Standing(used, used, ()), [], {}, 0)


def _post(books: Books, account: Account, step: Step, taking: Taking | None) -> None:
    grant, begins = step.grant, step.event is Event.BEGIN
    signed = step.amount if begins else -step.amount
    if step.event is Event.TAKEN and taking is not None:
        kind, operation_id, description, actor = Kind.VOID, taking.operation_id, taking.reason, taking.actor or None
    elif begins:
        kind, operation_id, description, actor = Kind.GRANT, grant.grant_id, grant.description, grant.actor or None
    elif grant.void_time is None:
        kind, operation_id, description, actor = Kind.EXPIRY, new_id(), grant.description, None
    else:
        kind, operation_id, description, actor = Kind.VOID, new_id(), grant.void_reason, grant.void_actor or None
    movement = Movement(
        organization_id=account.organization_id,
        operation_id=operation_id,
        transaction_id=new_id(),
        kind=kind,
        project_id=grant.project_id,
        account_id=account.account_id,
        sequence=account.sequence + 1,
        direction=Direction.CREDIT if begins else Direction.DEBIT,
        currency_code=account.currency_code,
        amount=step.amount,
        balance_after=account.posted + signed,
        requested_amount=step.amount,
        mode=None,
        overdrawn=False,
        system_account=SystemAccount.GRANTS if begins or kind is Kind.VOID else SystemAccount.EXPIRED,
        description=description,
        metadata={GRANT_ID: grant.grant_id},
        create_time=not_before(account, step.time),
        actor=actor,
    )
    account.posted, account.sequence = movement.balance_after, movement.sequence
    account.last_movement_time = movement.create_time
    fund(books, movement)
    books.movements[movement.organization_id, movement.operation_id] = movement
    books.new_movements.append(movement)


def _new_grant(command: GrantCredits, account: Account, now: datetime) -> Grant:
    return Grant(
        grant_id=new_id(),
        kind=command.kind,
        priority=command.priority,
        amount=command.amount,
        effective_time=command.effective_time or now,
        expire_time=command.expire_time,
        create_time=now,
        state=GrantState.SCHEDULED,
        rest=command.amount,
        organization_id=command.organization_id,
        account_id=account.account_id,
        project_id=command.project_id,
        operation_id=command.operation_id,
        currency_code=account.currency_code,
        source_reference=command.source_reference,
        description=command.description,
        metadata=command.metadata,
        actor=command.actor,
        at_once=command.effective_time is None,
        user_id=command.user_id,
        model=command.model,
        rollover_max=command.rollover_max,
    )
