"""The ledger's records on the wire. This is on the hot path: equal amounts are rendered once and shared."""

from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.amount import format_amount, render_amount
from libs.common.errors import FieldViolation, InvalidArgument
from services.billing import errors
from services.billing.ledger.model import (
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


@lru_cache(maxsize=1024)
def render_time(moment: datetime) -> Timestamp:
    """A moment as a message that must not be changed: all commands of a batch share it."""
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def parse_time(field: str, timestamp: Timestamp) -> datetime:
    """The moment of a message.

    Raises:
        InvalidArgument: no calendar knows it.
    """
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument([FieldViolation(field, "is not a moment between the years 1 and 9999")]) from None


def render_kind(kind: Kind) -> pb.TransactionKind.ValueType:
    return _KINDS[kind]


@lru_cache(maxsize=256)
def _zero(currency_code: str) -> amount_pb2.Amount:
    return render_amount(currency_code, ZERO)


def render_optional_amount(currency_code: str, value: Decimal | None) -> amount_pb2.Amount | None:
    return None if value is None else render_amount(currency_code, value)


def render_balance(balance: Balance, posted: amount_pb2.Amount | None = None) -> pb.Balance:
    """The balance; `posted` where it has been rendered already."""
    currency_code, held, limit = balance.currency_code, balance.held, balance.overdraft_limit
    posted = posted or render_amount(currency_code, balance.posted)
    zero = _zero(currency_code)
    if not held and not limit:
        return pb.Balance(posted=posted, held=zero, available=posted, overdraft_limit=zero, sequence=balance.sequence)
    return pb.Balance(
        posted=posted,
        held=render_amount(currency_code, held) if held else zero,
        available=render_amount(currency_code, balance.available),
        overdraft_limit=render_amount(currency_code, limit) if limit else zero,
        sequence=balance.sequence,
    )


def render_debit(posted: Posted) -> pb.DebitResponse:
    movement = posted.movement
    amount = render_amount(movement.currency_code, movement.amount)
    after = render_amount(movement.currency_code, movement.balance_after)
    return pb.DebitResponse(
        transaction=_render_charge(movement, amount, after),
        balance=render_balance(posted.balance, after),
        posted_amount=amount,
        replayed=posted.replayed,
    )


class DebitOutcomes:
    """Renders the debits of a batch: what those of one account have in common is rendered once and copied.

    Most debits of a batch differ in a few fields only, and copying a message is several times cheaper than making one.
    """

    def __init__(self) -> None:
        self.response = pb.BatchDebitResponse()
        self._common: dict[tuple[object, ...], pb.DebitOutcome] = {}

    def add(self, posted: Posted) -> None:
        m = posted.movement
        if posted.replayed or m.amount != m.requested_amount:
            self.response.outcomes.add().response.CopyFrom(render_debit(posted))
            return
        key = (m.organization_id, m.account_id, m.project_id, m.mode, m.overdrawn, m.create_time)
        common = self._common.get(key)
        if common is None:
            common = self._common[key] = pb.DebitOutcome(response=render_debit(posted))
            common.response.transaction.ClearField("metadata")
        outcome = self.response.outcomes.add()
        outcome.CopyFrom(common)
        _make_own(outcome.response, m, posted.balance)


def _make_own(response: pb.DebitResponse, m: Movement, balance: Balance) -> None:
    """Sets what one debit does not share with others of the same account, mode and time."""
    transaction, shown = response.transaction, response.balance
    transaction.transaction_id = m.transaction_id
    transaction.operation_id = m.operation_id
    transaction.sequence = shown.sequence = m.sequence
    amount, after = format_amount(m.amount), format_amount(m.balance_after)
    transaction.amount.value = transaction.requested_amount.value = response.posted_amount.value = amount
    transaction.balance_after.value = shown.posted.value = after
    if balance.held or balance.overdraft_limit:
        shown.held.value = format_amount(balance.held)
        shown.available.value = format_amount(balance.available)
    else:
        shown.held.value = "0"
        shown.available.value = after
    transaction.description = m.description
    if m.metadata:
        transaction.metadata.update(m.metadata)


def render_capture(posted: Posted) -> pb.CaptureHoldResponse:
    movement = posted.movement
    held = movement.held_amount or ZERO
    amount = render_amount(movement.currency_code, movement.amount)
    after = render_amount(movement.currency_code, movement.balance_after)
    transaction = _render_charge(movement, amount, after)
    transaction.held_amount.CopyFrom(render_amount(movement.currency_code, held))
    return pb.CaptureHoldResponse(
        transaction=transaction,
        balance=render_balance(posted.balance, after),
        released_amount=render_amount(movement.currency_code, max(held - movement.amount, ZERO)),
        overrun_amount=render_amount(movement.currency_code, max(movement.amount - held, ZERO)),
        replayed=posted.replayed,
    )


def render_hold_created(placed: Placed) -> pb.CreateHoldResponse:
    return pb.CreateHoldResponse(
        hold=render_hold(placed.hold), balance=render_balance(placed.balance), replayed=placed.replayed
    )


def _render_charge(m: Movement, amount: amount_pb2.Amount, after: amount_pb2.Amount) -> pb.Transaction:
    """A debit or a capture: what they have, and nothing else."""
    requested = amount if m.requested_amount == m.amount else render_amount(m.currency_code, m.requested_amount or ZERO)
    return pb.Transaction(
        transaction_id=m.transaction_id,
        organization_id=m.organization_id,
        project_id=m.project_id or "",
        account_id=m.account_id,
        operation_id=m.operation_id,
        sequence=m.sequence,
        kind=_KINDS[m.kind],
        direction=_DIRECTIONS[m.direction],
        amount=amount,
        balance_after=after,
        create_time=render_time(m.create_time),
        requested_amount=requested,
        mode=pb.DEBIT_MODE_UNSPECIFIED if m.mode is None else _MODES[m.mode],
        overdrawn=m.overdrawn,
        system_account=pb.SYSTEM_ACCOUNT_REVENUE,
        description=m.description,
        metadata=m.metadata,
    )


def render_transaction(m: Movement) -> pb.Transaction:
    """A movement of any kind."""
    amount = render_amount(m.currency_code, m.amount)
    after = render_amount(m.currency_code, m.balance_after)
    if m.kind is Kind.DEBIT:
        return _render_charge(m, amount, after)
    return pb.Transaction(
        transaction_id=m.transaction_id,
        organization_id=m.organization_id,
        project_id=m.project_id or "",
        account_id=m.account_id,
        operation_id=m.operation_id,
        sequence=m.sequence,
        kind=_KINDS[m.kind],
        direction=_DIRECTIONS[m.direction],
        amount=amount,
        balance_after=after,
        create_time=render_time(m.create_time),
        requested_amount=render_optional_amount(m.currency_code, m.requested_amount),
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
    )


def render_hold(hold: Hold) -> pb.Hold:
    return pb.Hold(
        hold_id=hold.hold_id,
        organization_id=hold.organization_id,
        project_id=hold.project_id or "",
        account_id=hold.account_id,
        operation_id=hold.operation_id,
        amount=render_amount(hold.currency_code, hold.amount),
        state=_HOLD_STATES[hold.state],
        create_time=render_time(hold.create_time),
        expire_time=render_time(hold.expire_time),
        end_time=None if hold.end_time is None else render_time(hold.end_time),
        description=hold.description,
        metadata=hold.metadata,
    )


def refusal_of(decline: Decline) -> errors.InsufficientBalance:
    """A decline as the refusal a caller gets, now and on every repeat."""
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
    )
