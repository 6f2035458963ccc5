"""Tells a repeated request from another request under the same operation id.

The fields of a request are stored with its outcome. So they are compared themselves, without a digest, and the first
field that differs can be named.
"""

from dataclasses import asdict
from decimal import Decimal

from services.billing.ledger.domain import (
    Command,
    GrantCredits,
    Hold,
    Kind,
    Metadata,
    Movement,
    Request,
)
from services.billing.ledger.grants import Grant

_KINDS = {"Debit": "DEBIT", "Credit": "CREDIT", "Transfer": "TRANSFER", "Capture": "CAPTURE", "Reverse": "REVERSAL"}
_NOT_COMPARED = ("organization_id", "operation_id", "actor", "validate_only", "may_be_over", "opens_account", "also")
"""A repeat by another caller is a repeat all the same."""
_OF_CHARGES_NOT_COMPARED = ("user_id", "model")
"""They say which credits a charge or a hold may use, and are not part of what it is: see decision 19."""


def request_of(command: Command) -> Request:
    """Return the fields of a command that are compared, in the order in which differences are named."""
    fields: Request = {"kind": _KINDS.get(type(command).__name__, "HOLD")}
    for name, value in asdict(command).items():
        if name not in _NOT_COMPARED and (isinstance(command, GrantCredits) or name not in _OF_CHARGES_NOT_COMPARED):
            fields[name] = _plain(value)
    return fields


def request_of_movement(movement: Movement) -> Request:
    """Return the request that a stored movement came from."""
    metadata = movement.metadata or None
    amount = movement.requested_amount
    currency_code = None if amount is None else movement.currency_code
    request: Request = {"kind": movement.kind.value}
    match movement.kind:
        case Kind.DEBIT:
            request |= {"project_id": movement.project_id, "mode": movement.mode}
        case Kind.CREDIT:
            request |= {"project_id": movement.project_id, "source": movement.system_account}
        case Kind.TRANSFER:
            request["source_project_id"] = movement.project_id
            request["destination_project_id"] = movement.counter_project_id
        case Kind.REVERSAL:
            request["transaction_id"] = movement.reverses_transaction_id
        case Kind.CAPTURE:
            request["hold_operation_id"] = movement.hold_operation_id
    return request | {
        "currency_code": currency_code,
        "amount": None if amount is None else _plain(amount),
        "description": movement.description,
        "metadata": metadata,
    }


def request_of_hold(hold: Hold) -> Request:
    """Return the request that a stored hold came from."""
    return {
        "kind": "HOLD",
        "project_id": hold.project_id,
        "currency_code": hold.currency_code,
        "amount": _plain(hold.amount if hold.requested_amount is None else hold.requested_amount),
        "ttl_ms": hold.ttl_ms,
        "description": hold.description,
        "metadata": hold.metadata or None,
    }


def request_of_grant(grant: Grant) -> Request:
    """Return the request that a stored grant came from."""
    return {
        "kind": grant.kind.value,
        "project_id": grant.project_id,
        "currency_code": grant.currency_code,
        "amount": _plain(grant.amount),
        "priority": grant.priority,
        "effective_time": None if grant.at_once else _plain(grant.effective_time),
        "expire_time": _plain(grant.expire_time),
        "source_reference": grant.source_reference,
        "user_id": grant.user_id,
        "model": grant.model,
        "rollover_max": _plain(grant.rollover_max),
        "description": grant.description,
        "metadata": grant.metadata or None,
    }


def first_difference(known: Request, asked: Request) -> str | None:
    """The field, by its name in the proto, in which the request differs from the known one; None for a repeat."""
    for name in asked if asked["kind"] == known["kind"] else ("kind",):
        if asked[name] != known.get(name):
            if name == "hold_operation_id":
                # A request for a part names the hold as its `operation_id`; another capture names no part.
                return "operation_id" if asked[name] and known.get(name) else "part_id"
            return {"currency_code": "amount", "ttl_ms": "ttl"}.get(name, name)
    return None


def _plain(value: object) -> str | int | Metadata | None:
    """Return the value as it is stored in JSON. Equal amounts give the same text."""
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    if isinstance(value, dict):
        return {str(key): str(label) for key, label in value.items()} or None
    if value is None or isinstance(value, int):
        return value
    return str(value)
