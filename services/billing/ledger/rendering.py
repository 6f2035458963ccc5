"""Renders the ledger's records as messages.

Answers of the hot path are filled in place. A message that is made first and then assigned to a field of another is
serialized and parsed again, at every level, which costs more than everything else here.
"""

from decimal import Decimal

from libs.common.amount import format_amount, render_amount
from libs.common.timestamps import fill_time, render_time
from services.billing import errors
from services.billing.ledger.domain import (
    ZERO,
    Balance,
    Decline,
    Direction,
    Hold,
    HoldState,
    Kind,
    Mode,
    Movement,
    Placed,
    Posted,
    SystemAccount,
)
from tollhouse.billing.v1 import ledger_pb2 as pb
from tollhouse.common.v1 import amount_pb2

_KINDS = {kind: pb.TransactionKind.Value(f"TRANSACTION_KIND_{kind.value}") for kind in Kind}
_DIRECTIONS = {direction: pb.Direction.Value(f"DIRECTION_{direction.value}") for direction in Direction}
_MODES = {mode: pb.DebitMode.Value(f"DEBIT_MODE_{mode.value}") for mode in Mode}
_SYSTEM_ACCOUNTS = {a: pb.SystemAccount.Value(f"SYSTEM_ACCOUNT_{a.value}") for a in SystemAccount}
_HOLD_STATES = {state: pb.HoldState.Value(f"HOLD_STATE_{state.value}") for state in HoldState}


def render_kind(kind: Kind) -> pb.TransactionKind.ValueType:
    return _KINDS[kind]


def render_optional_amount(currency_code: str, value: Decimal | None) -> amount_pb2.Amount | None:
    return None if value is None else render_amount(currency_code, value)


def render_balance(balance: Balance) -> pb.Balance:
    message = pb.Balance()
    _fill_balance(message, balance, format_amount(balance.posted))
    return message


def fill_debit(response: pb.DebitResponse, posted: Posted) -> None:
    m = posted.movement
    amount, after = format_amount(m.amount), format_amount(m.balance_after)
    _fill_charge(response.transaction, m, amount, after)
    if m.mode is not None:
        response.transaction.mode = _MODES[m.mode]
    _fill_balance(response.balance, posted.balance, after)
    _fill_amount(response.posted_amount, m.currency_code, amount)
    response.replayed = posted.replayed


def fill_capture(response: pb.CaptureHoldResponse, posted: Posted) -> None:
    m, held = posted.movement, posted.movement.held_amount or ZERO
    after = format_amount(m.balance_after)
    _fill_charge(response.transaction, m, format_amount(m.amount), after)
    _fill_amount(response.transaction.held_amount, m.currency_code, format_amount(held))
    _fill_balance(response.balance, posted.balance, after)
    released = ZERO if m.hold_operation_id is not None else max(held - m.amount, ZERO)
    _fill_amount(response.released_amount, m.currency_code, format_amount(released))
    _fill_amount(response.overrun_amount, m.currency_code, format_amount(max(m.amount - held, ZERO)))
    response.replayed = posted.replayed


def fill_reversal(response: pb.ReverseTransactionResponse, posted: Posted) -> None:
    response.transaction.CopyFrom(render_transaction(posted.movement))
    response.balance.CopyFrom(render_balance(posted.balance))
    if posted.remaining is not None:
        _fill_amount(response.remaining_amount, posted.movement.currency_code, format_amount(posted.remaining))
    response.replayed = posted.replayed


def fill_hold_created(response: pb.CreateHoldResponse, placed: Placed) -> None:
    _fill_hold(response.hold, placed.hold)
    _fill_balance(response.balance, placed.balance, format_amount(placed.balance.posted))
    response.replayed = placed.replayed


class DebitOutcomes:
    """Renders the debits of a batch. What debits of one account have in common is rendered once and copied.

    Most debits of a batch differ in a few fields only, and copying a message is several times cheaper than making one.
    """

    def __init__(self) -> None:
        self.response = pb.BatchDebitResponse()
        self._common: dict[tuple[object, ...], pb.DebitOutcome] = {}

    def add(self, posted: Posted) -> None:
        m = posted.movement
        if posted.replayed or m.amount != m.requested_amount:
            fill_debit(self.response.outcomes.add().response, posted)
            return
        key = (m.organization_id, m.account_id, m.project_id, m.mode, m.overdrawn, m.create_time)
        common = self._common.get(key)
        if common is None:
            common = self._common[key] = pb.DebitOutcome()
            fill_debit(common.response, posted)
            common.response.transaction.ClearField("metadata")
        outcome = self.response.outcomes.add()
        outcome.CopyFrom(common)
        _make_own(outcome.response, m, posted.balance)


def _make_own(response: pb.DebitResponse, m: Movement, balance: Balance) -> None:
    """Set what one debit does not share with others of the same account, mode and time."""
    transaction, shown = response.transaction, response.balance
    transaction.transaction_id = m.transaction_id
    transaction.operation_id = m.operation_id
    transaction.sequence = shown.sequence = m.sequence
    amount, after = format_amount(m.amount), format_amount(m.balance_after)
    transaction.amount.value = transaction.requested_amount.value = response.posted_amount.value = amount
    transaction.balance_after.value = shown.posted.value = after
    if balance.held or balance.overdraft_limit or balance.scoped:
        shown.held.value = format_amount(balance.held)
        shown.available.value = format_amount(balance.available)
        if balance.scoped:
            _fill_amount(shown.scoped, m.currency_code, format_amount(balance.scoped))
    else:
        shown.held.value = "0"
        shown.available.value = after
    transaction.description = m.description
    if m.metadata:
        transaction.metadata.update(m.metadata)


def _fill_amount(message: amount_pb2.Amount, currency_code: str, value: str) -> None:
    message.currency_code = currency_code
    message.value = value


def _fill_balance(message: pb.Balance, balance: Balance, posted: str) -> None:
    currency_code, held, limit = balance.currency_code, balance.held, balance.overdraft_limit
    available = format_amount(balance.available) if held or limit or balance.scoped else posted
    _fill_amount(message.posted, currency_code, posted)
    _fill_amount(message.held, currency_code, format_amount(held) if held else "0")
    _fill_amount(message.available, currency_code, available)
    _fill_amount(message.overdraft_limit, currency_code, format_amount(limit) if limit else "0")
    message.sequence = balance.sequence
    if balance.scoped:
        _fill_amount(message.scoped, currency_code, format_amount(balance.scoped))


def _fill_charge(message: pb.Transaction, m: Movement, amount: str, after: str) -> None:
    """Set what a debit and a capture have in common."""
    message.transaction_id = m.transaction_id
    message.organization_id = m.organization_id
    if m.project_id is not None:
        message.project_id = m.project_id
    message.account_id = m.account_id
    message.operation_id = m.operation_id
    message.sequence = m.sequence
    message.kind = _KINDS[m.kind]
    message.direction = pb.DIRECTION_DEBIT
    _fill_amount(message.amount, m.currency_code, amount)
    _fill_amount(message.balance_after, m.currency_code, after)
    fill_time(message.create_time, m.create_time)
    requested = amount if m.requested_amount == m.amount else format_amount(m.requested_amount or ZERO)
    _fill_amount(message.requested_amount, m.currency_code, requested)
    message.overdrawn = m.overdrawn
    message.system_account = pb.SYSTEM_ACCOUNT_REVENUE
    if m.actor is not None:
        message.actor = m.actor
    if m.hold_operation_id is not None:
        message.hold_operation_id = m.hold_operation_id
    if m.description:
        message.description = m.description
    if m.metadata:
        message.metadata.update(m.metadata)


def render_transaction(m: Movement) -> pb.Transaction:
    """Render a movement of any kind."""
    return pb.Transaction(
        transaction_id=m.transaction_id,
        organization_id=m.organization_id,
        project_id=m.project_id or "",
        account_id=m.account_id,
        operation_id=m.operation_id,
        sequence=m.sequence,
        kind=_KINDS[m.kind],
        direction=_DIRECTIONS[m.direction],
        amount=render_amount(m.currency_code, m.amount),
        balance_after=render_amount(m.currency_code, m.balance_after),
        create_time=render_time(m.create_time),
        requested_amount=render_optional_amount(m.currency_code, m.requested_amount),
        mode=pb.DEBIT_MODE_UNSPECIFIED if m.mode is None else _MODES[m.mode],
        overdrawn=m.overdrawn,
        system_account=_SYSTEM_ACCOUNTS[m.system_account] if m.system_account else pb.SYSTEM_ACCOUNT_UNSPECIFIED,
        counter_account_id=m.counter_account_id or "",
        counter_project_id=m.counter_project_id or "",
        counter_sequence=m.counter_sequence or 0,
        counter_balance_after=render_optional_amount(m.currency_code, m.counter_balance_after),
        reverses_transaction_id=m.reverses_transaction_id or "",
        held_amount=render_optional_amount(m.currency_code, m.held_amount),
        description=m.description,
        metadata=m.metadata,
        actor=m.actor or "",
        hold_operation_id=m.hold_operation_id or "",
    )


def render_hold(hold: Hold) -> pb.Hold:
    message = pb.Hold()
    _fill_hold(message, hold)
    return message


def _fill_hold(message: pb.Hold, hold: Hold) -> None:
    message.hold_id = hold.hold_id
    message.organization_id = hold.organization_id
    if hold.project_id is not None:
        message.project_id = hold.project_id
    message.account_id = hold.account_id
    message.operation_id = hold.operation_id
    _fill_amount(message.amount, hold.currency_code, format_amount(hold.amount))
    captured = format_amount(hold.captured_amount) if hold.captured_amount else "0"
    _fill_amount(message.captured_amount, hold.currency_code, captured)
    message.state = _HOLD_STATES[hold.state]
    fill_time(message.create_time, hold.create_time)
    fill_time(message.expire_time, hold.expire_time)
    if hold.end_time is not None:
        fill_time(message.end_time, hold.end_time)
    if hold.actor is not None:
        message.actor = hold.actor
    if hold.description:
        message.description = hold.description
    if hold.metadata:
        message.metadata.update(hold.metadata)
    if hold.user_id is not None:
        message.user_id = hold.user_id
    if hold.model is not None:
        message.model = hold.model


def refusal_of(decline: Decline) -> errors.InsufficientBalance:
    """Return the refusal that a decline is answered with, the first time and on every repeat."""
    balance = decline.balance
    return errors.InsufficientBalance(
        account_id=decline.account_id,
        currency_code=balance.currency_code,
        posted=balance.posted,
        held=balance.held,
        overdraft_limit=balance.overdraft_limit,
        available=balance.available,
        needed=decline.needed,
        earliest_release_time=decline.earliest_release_time,
        scoped_to_others=balance.scoped or None,
    )
