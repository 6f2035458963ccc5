"""The rules by themselves: no database, no server."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from libs.common.errors import Conflict, OperationIdReused
from libs.common.ids import new_id
from services.billing import errors
from services.billing.ledger.bookkeeping import BALANCE_MAX, new_account
from services.billing.ledger.books import Books
from services.billing.ledger.decisions import decide
from services.billing.ledger.domain import (
    Account,
    Capture,
    Debit,
    Decline,
    HoldState,
    Mode,
    Place,
    Placed,
    Posted,
    Release,
)

ORG = new_id()
NOW = datetime(2026, 3, 15, tzinfo=UTC)


def _books(posted: str, limit: str = "0") -> tuple[Books, Account]:
    books, account = Books(), new_account(ORG, ORG, "USD")
    account.posted, account.overdraft_limit, account.is_new = Decimal(posted), Decimal(limit), False
    books.add_account(account)
    return books, account


def _debit(operation_id: str, amount: str, mode: Mode = Mode.GUARDED, *, validate_only: bool = False) -> Debit:
    return Debit(ORG, operation_id, None, "USD", Decimal(amount), mode, "", None, "operator:test", validate_only)


@pytest.mark.parametrize(
    ("mode", "amount", "posted_amount", "overdrawn"),
    [
        (Mode.GUARDED, "12", "12", False),
        (Mode.MUST_POST, "13", "13", True),
        (Mode.BEST_EFFORT, "13", "12", False),
    ],
)
def test_debit_by_mode(mode: Mode, amount: str, posted_amount: str, overdrawn: bool) -> None:
    books, account = _books("10", limit="2")
    outcome = decide(books, _debit("a", amount, mode), NOW)
    assert isinstance(outcome, Posted)
    assert (outcome.movement.amount, outcome.movement.overdrawn) == (Decimal(posted_amount), overdrawn)
    assert account.posted == Decimal(10) - Decimal(posted_amount)


def test_what_another_process_stored_since_the_accounts_were_locked_is_a_conflict() -> None:
    theirs, _ = _books("10")
    made = decide(theirs, _debit("a", "1"), NOW)
    held = decide(theirs, Place(ORG, "b", None, "USD", Decimal(1), 60_000, "", None, "operator:test"), NOW)
    assert isinstance(made, Posted)
    assert isinstance(held, Placed)
    ours = Books()
    ours.movements[ORG, "a"], ours.holds[ORG, "b"] = made.movement, held.hold
    for command in (_debit("a", "1"), Capture(ORG, "b", None, "USD", Decimal(1), "", None, "operator:test")):
        with pytest.raises(Conflict):
            decide(ours, command, NOW)


def test_commands_of_one_batch_see_each_other() -> None:
    books, account = _books("10")
    outcomes = [decide(books, _debit(name, "6"), NOW) for name in ("a", "a", "b", "b")]
    assert [isinstance(outcome, Decline) for outcome in outcomes] == [False, False, True, True]
    assert isinstance(outcomes[1], Posted)
    assert outcomes[1].replayed
    assert (account.posted, account.sequence) == (Decimal(4), 1)
    assert (len(books.new_movements), len(books.new_declines)) == (1, 1)
    with pytest.raises(OperationIdReused):
        decide(books, _debit("a", "7"), NOW)


def test_validate_only_command_changes_no_books() -> None:
    books, account = _books("10")
    decide(books, _debit("a", "6", validate_only=True), NOW)
    decide(books, _debit("b", "60", validate_only=True), NOW)
    assert account.posted == 10
    assert [*books.new_movements, *books.new_declines, *books.changed_accounts] == []


def test_hold_placed_captured_and_released_in_one_batch() -> None:
    books, account = _books("10")
    placed = decide(books, Place(ORG, "a", None, "USD", Decimal(4), 1_000, "", None, "operator:test"), NOW)
    assert isinstance(placed, Placed)
    assert placed.hold.expire_time == NOW + timedelta(seconds=1)
    decide(books, Place(ORG, "b", None, "USD", Decimal(6), 1_000, "", None, "operator:test"), NOW)
    assert account.available == 0
    captured = decide(books, Capture(ORG, "a", None, "USD", Decimal(5), "", None, "operator:test"), NOW)
    decide(books, Release(ORG, "b"), NOW)
    assert isinstance(captured, Posted)
    assert captured.movement.overdrawn
    assert (account.posted, account.held) == (Decimal(5), Decimal(0))
    assert [hold.state for hold in books.new_holds] == [HoldState.CAPTURED, HoldState.RELEASED]


@pytest.mark.parametrize(
    ("posted", "amount", "part", "last", "rest", "left"),
    [
        # With 4 held: is a part, or a last capture, of the amount overdrawn, what remains held, and what is available?
        ("10", "3", False, False, "1", "6"),
        ("10", "4", False, False, "0", "6"),
        ("10", "10", False, False, "0", "0"),
        ("10", "11", True, True, "0", "-1"),
        ("4", "3", False, False, "1", "0"),
        # The account is overdrawn by 1 already: the hold's rest, which a last capture frees, makes up for it.
        ("3", "2", True, False, "2", "-1"),
        ("3", "3", True, False, "1", "-1"),
        ("3", "0", False, False, "4", "-1"),
    ],
)
def test_part_is_overdrawn_where_the_account_is_after_it(
    posted: str, amount: str, part: bool, last: bool, rest: str, left: str
) -> None:
    for part_of, overdrawn in (("a", part), (None, last)):
        books, account = _books("10")
        decide(books, Place(ORG, "a", None, "USD", Decimal(4), 1_000, "", None, "operator:test"), NOW)
        account.posted = Decimal(posted)
        name = "a" if part_of is None else "a/1"
        done = decide(books, Capture(ORG, name, part_of, "USD", Decimal(amount), "", None, "operator:test"), NOW)
        assert isinstance(done, Posted)
        assert (done.movement.overdrawn, done.movement.held_amount) == (overdrawn, Decimal(4))
        if part_of is not None:
            assert (account.held, account.available) == (Decimal(rest), Decimal(left))


def test_times_never_decrease_along_the_sequence() -> None:
    books, account = _books("10")
    account.last_movement_time = NOW + timedelta(seconds=5)
    outcome = decide(books, _debit("a", "1"), NOW)
    assert isinstance(outcome, Posted)
    assert outcome.movement.create_time == NOW + timedelta(seconds=5)


def test_balance_stays_within_what_can_be_stored() -> None:
    books, account = _books(str(1 - BALANCE_MAX))
    with pytest.raises(errors.BalanceOutOfRange):
        decide(books, _debit("a", "1", Mode.MUST_POST), NOW)
    assert account.sequence == 0


def test_closed_account_takes_only_must_post_debits() -> None:
    books, account = _books("10")
    account.closed = True
    with pytest.raises(errors.AccountClosed):
        decide(books, _debit("a", "1"), NOW)
    assert isinstance(decide(books, _debit("b", "1", Mode.MUST_POST), NOW), Posted)
