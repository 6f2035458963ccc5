"""Enters what charges use and holds reserve of an account's grants, where that is entered grant by grant.

On other accounts nothing is entered: their grants follow from what was used altogether.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from services.billing.ledger.books import Books, GrantUse
from services.billing.ledger.domain import ZERO, Account, Balance, Hold, HoldState, Posted
from services.billing.ledger.grants import GrantState
from services.billing.ledger.itemized import Amounts, Itemized, Use


def itemized_of(books: Books, account: Account) -> Itemized | None:
    """Return the account's grants if its charges are entered grant by grant."""
    if account.itemized_from is None:
        return None
    return books.account_grants[account.account_id].itemized


def balance_for(books: Books, account: Account, user_id: str | None, model: str | None) -> Balance:
    """Return the balance as a charge of this user and for this model sees it."""
    balance = account.balance()
    itemized = itemized_of(books, account)
    if itemized is not None:
        balance.scoped = itemized.closed_to(user_id, model)
    return balance


def available_to(books: Books, account: Account, user_id: str | None, model: str | None) -> Decimal:
    """Return what is available to a charge of this user and for this model."""
    if account.itemized_from is None:
        return account.available
    return balance_for(books, account, user_id, model).available


def enter_charge(
    books: Books, posted: Posted, account: Account, user_id: str | None, model: str | None, *, validate_only: bool
) -> list[Use]:
    """Enter what a posted charge uses of grants, and show in its balance what is left. Return what it used."""
    itemized = itemized_of(books, account)
    if itemized is None:
        return []
    amounts = itemized.of_charge(user_id, model, posted.movement.amount)
    posted.balance.scoped = itemized.scoped - itemized.scoped_part(amounts)
    if validate_only:
        return []
    uses = itemized.use(amounts)
    _enter(books, posted, account, itemized, uses, user_id, model)
    return uses


def enter_reversal(books: Books, posted: Posted, account: Account, given_back: Decimal, now: datetime) -> None:
    """Enter what a posted reversal of a charge gives back to grants: what the charge used last comes back first.

    `given_back` is what was reversed of the charge before. A charge from before uses were entered first covers a debt,
    and then gives back to the grants that are for all, in reverse order, up to what was used of each.
    """
    itemized = itemized_of(books, account)
    if itemized is None:
        return
    movement = posted.movement
    key = (movement.organization_id, movement.reverses_transaction_id or "")
    original = books.originals[key]
    back = movement.amount
    if original.sequence <= (account.itemized_from or 0):
        used = [(grant, grant.used) for grant in itemized.grants.values() if not grant.is_scoped and grant.used > ZERO]
        of_grants = sum((grant.rest for grant in itemized.grants.values()), ZERO)
        beside = max(of_grants - (account.posted - back), ZERO)
    else:
        used = books.known_uses.get(key, [])
        beside = original.amount - sum((amount for _, amount in used), ZERO)
        skipped = min(given_back, beside)
        beside, given_back = beside - skipped, given_back - skipped
        for place in reversed(range(len(used))):
            skipped = min(given_back, used[place][1])
            used = [*used[:place], (used[place][0], used[place][1] - skipped), *used[place + 1 :]]
            given_back -= skipped
    back -= min(back, beside)
    uses: list[Use] = []
    for grant, amount in reversed(used):
        part = min(back, amount)
        current = books.changed_grants.get(grant.grant_id, grant)
        use = itemized.give_back(current, part, now) if part else None
        if use is not None:
            uses.append(use)
        back -= part
    posted.balance.scoped = itemized.scoped
    _enter(books, posted, account, itemized, uses, None, None)


def reserve(books: Books, account: Account, hold: Hold, amount: Decimal) -> None:
    """Enter what of grants a new hold reserves, or one that is enlarged reserves more."""
    itemized = itemized_of(books, account)
    if itemized is None:
        return
    amounts = itemized.of_charge(hold.user_id, hold.model, amount)
    itemized.reserve(amounts)
    reserves = dict(hold.reserves or {})
    for grant_id, part in amounts.items():
        reserves[grant_id] = reserves.get(grant_id, ZERO) + part
    _set(books, account, hold, itemized, reserves)


def unreserve(books: Books, account: Account, hold: Hold) -> None:
    """Give up what of grants a hold reserves: it ends, or a part of its work is captured. See `reserve_again`."""
    itemized = itemized_of(books, account)
    if itemized is not None and hold.reserves and hold.state is HoldState.OPEN:
        itemized.release(hold.reserves)
        account.scoped = itemized.scoped


def reserve_again(books: Books, account: Account, hold: Hold, uses: Sequence[Use]) -> None:
    """Enter what of grants an open hold still reserves after a part of its work used some of it.

    It keeps what it had reserved, without what the part used, up to what it still holds: first what is used first.
    """
    itemized = itemized_of(books, account)
    if itemized is None:
        return
    used = {use.grant.grant_id: use.amount for use in uses}
    left, kept = hold.reserved, Amounts()
    for grant_id, before in itemized.in_use_order(hold.reserves or {}).items():
        part = min(before - used.get(grant_id, ZERO), left)
        if part > ZERO:
            kept[grant_id] = part
            left -= part
    itemized.reserve(kept)
    _set(books, account, hold, itemized, kept)


def set_aside_for_open_holds(books: Books, account: Account, holds: Sequence[Hold]) -> None:
    """Enter what open holds reserve of the grants of an account that is entered grant by grant from now on."""
    current = {hold.operation_id: books.holds.get((hold.organization_id, hold.operation_id), hold) for hold in holds}
    current |= {hold.operation_id: hold for hold in books.new_holds if hold.account_id == account.account_id}
    for hold in sorted(current.values(), key=lambda one: (one.create_time, one.operation_id)):
        if hold.reserved:
            reserve(books, account, hold, hold.reserved)


def _set(books: Books, account: Account, hold: Hold, itemized: Itemized, reserves: Amounts) -> None:
    hold.reserves = reserves
    books.reserving_holds[hold.organization_id, hold.operation_id] = hold
    account.scoped = itemized.scoped


def _enter(
    books: Books,
    posted: Posted,
    account: Account,
    itemized: Itemized,
    uses: Sequence[Use],
    user_id: str | None,
    model: str | None,
) -> None:
    for place, use in enumerate(uses):
        books.new_uses.append(GrantUse(use.grant, posted.movement.sequence, place, use.amount, user_id, model))
        books.changed_grants[use.grant.grant_id] = use.grant
        assert use.grant.state is GrantState.ACTIVE, "only active grants are used"
    account.scoped = itemized.scoped
