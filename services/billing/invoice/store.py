"""The statements on invoices: raw, over a connection to the organization's shard."""

import json
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

import asyncpg

from libs.common.database import RawConnection
from services.billing.invoice.document_json import amounts_json, amounts_of_json, document_json, document_of_json
from services.billing.invoice.domain import Amounts, Document, DocumentKind, State, Step

_COLUMNS: Final = """
    organization_id::text, invoice_id::text, kind, state, number, account_id::text, project_id::text, currency_code,
    after_sequence, from_time, to_sequence, to_time, first_sequence, subtotal, tax, credits_applied, credited,
    credited_tax, replaces::text[], corrects_invoice_id::text, payment_id::text, operation_id, reason, document::text,
    issue_time, due_time, state_time, actor
"""

# One probe of the primary key.
_FIND: Final = f"""
    SELECT {_COLUMNS} FROM invoices WHERE organization_id = $1::uuid AND invoice_id = $2::uuid
"""  # noqa: S608 -- made of constants of ours alone.
_LOCK: Final = f"{_FIND} FOR UPDATE"

_WITHOUT_LINES: Final = _COLUMNS.replace("document::text", "(document - 'lines')::text")

# A range of the primary key, which sorts by time, backwards.
_PAGE: Final = f"""
    SELECT {_WITHOUT_LINES} FROM invoices
    WHERE organization_id = $1::uuid AND ($2::uuid IS NULL OR invoice_id < $2)
    ORDER BY invoices.invoice_id DESC LIMIT $3
"""  # noqa: S608

# One probe of the unique number.
_OF_NUMBER: Final = f"""
    SELECT {_WITHOUT_LINES} FROM invoices WHERE organization_id = $1::uuid AND number = $2
"""  # noqa: S608

# The last invoice of an account, by the unique position.
_HEAD: Final = """
    SELECT position, to_sequence, to_time, rest_from, rest_amount, grants_used::text FROM invoices
    WHERE organization_id = $1::uuid AND account_id = $2::uuid AND position IS NOT NULL
    ORDER BY position DESC LIMIT 1
"""

# By the partial index of voided invoices whose movements are free again.
_FREE: Final = """
    SELECT invoice_id::text, replaces::text[] FROM invoices
    WHERE organization_id = $1::uuid AND account_id = $2::uuid AND state = 'VOID' AND replaced_by IS NULL
    ORDER BY invoice_id LIMIT $3
"""
_STEPS: Final = """
    SELECT after_sequence, from_time, to_sequence, to_time, first_sequence FROM invoices
    WHERE organization_id = $1::uuid AND invoice_id = ANY($2::uuid[])
"""

_CREDITS_USED: Final = """
    SELECT (document -> 'credits_used')::text FROM invoices
    WHERE organization_id = $1::uuid AND invoice_id = ANY($2::uuid[])
"""

# What invoices had left to pay of their subtotals when they were issued. By primary key.
_DUE_OF: Final = """
    SELECT coalesce(sum(greatest(subtotal - credits_applied, 0)), 0) FROM invoices
    WHERE organization_id = $1::uuid AND invoice_id = ANY($2::uuid[])
"""

# Notes of one invoice, by the partial index on what they correct.
_NOTES: Final = f"""
    SELECT {_COLUMNS} FROM invoices
    WHERE organization_id = $1::uuid AND corrects_invoice_id = $2::uuid
    ORDER BY invoices.invoice_id
"""  # noqa: S608

# One probe of the primary key.
_PAYMENT: Final = """
    SELECT status, currency_code, amount - refunded_amount, brings, credits_currency_code,
        credits_amount - taken_credits - taken_money - written_off
    FROM payments WHERE organization_id = $1::uuid AND payment_id = $2::uuid
"""

# By the unique operation.
_PAYMENT_OF: Final = """
    SELECT payment_id::text FROM payment_movements WHERE organization_id = $1::uuid AND operation_id = $2
"""

# Held until the end of the transaction, so that two invoices are not paid with the same money at once.
_LOCK_MONEY: Final = "SELECT pg_advisory_xact_lock(hashtextextended('billing.invoice_money/' || $1 || '/' || $2, 0))"

# A range of the primary key, and one of the movements'.
_PAID_WITH: Final = """
    SELECT coalesce(sum(greatest(
        greatest(subtotal + tax - credits_applied, 0) - greatest(credited + credited_tax, 0), 0)), 0)
    FROM invoices
    WHERE organization_id = $1::uuid AND state = 'PAID' AND (payment_id = $2::uuid OR operation_id = $3
        OR operation_id IN (
            SELECT m.operation_id FROM payment_movements m
            WHERE m.organization_id = $1::uuid AND m.payment_id = $2::uuid AND m.operation_id IS NOT NULL))
"""

# Held until the end of the transaction, so that the invoices of an account follow each other.
_LOCK_ACCOUNT: Final = "SELECT pg_advisory_xact_lock(hashtextextended('billing.invoices/' || $1 || '/' || $2, 0))"

# Takes the next number of a prefix, and stores the document with it. The counter's row stays locked until the end, so a
# document that is not committed leaves no gap. One probe of each primary key.
_INSERT: Final = """
    WITH taken AS (
        INSERT INTO invoice_counters (prefix, last_count) VALUES ($1, 1)
        ON CONFLICT (prefix) DO UPDATE SET last_count = invoice_counters.last_count + 1
        RETURNING last_count
    ), named AS (
        INSERT INTO invoice_numbers (number, prefix, count, organization_id, invoice_id)
        SELECT $1 || lpad(last_count::text, greatest(6, length(last_count::text)), '0'), $1, last_count, $2::uuid,
            $3::uuid
        FROM taken RETURNING number
    )
    INSERT INTO invoices (
        organization_id, invoice_id, kind, state, number, account_id, project_id, currency_code, position,
        after_sequence, from_time, to_sequence, to_time, first_sequence, rest_from, step_amount, rest_amount, subtotal,
        tax, credits_applied, credited, credited_tax, grants_used, replaces, corrects_invoice_id, reason, document,
        issue_time, due_time, state_time, actor
    )
    SELECT $2::uuid, $3::uuid, $4, $5, number, $6::uuid, $7::uuid, $8, $9::bigint, $10::bigint, $11::timestamptz,
        $12::bigint, $13::timestamptz, $14::bigint, $15::bigint, $16::numeric, $17::numeric, $18::numeric, $19::numeric,
        $20::numeric, 0, 0, $21::jsonb, $22::uuid[], $23::uuid, $24, $25::jsonb, $26::timestamptz, $27::timestamptz,
        $28::timestamptz, $29
    FROM named RETURNING number
"""

# By primary key.
_SET_STATE: Final = """
    UPDATE invoices SET state = $3, state_time = $4, payment_id = $5::uuid, operation_id = $6, reason = $7
    WHERE organization_id = $1::uuid AND invoice_id = $2::uuid
"""
_REPLACE: Final = """
    UPDATE invoices SET replaced_by = $3::uuid
    WHERE organization_id = $1::uuid AND invoice_id = ANY($2::uuid[]) AND replaced_by IS NULL
"""
_CREDIT: Final = """
    UPDATE invoices SET credited = credited + $3, credited_tax = credited_tax + $4
    WHERE organization_id = $1::uuid AND invoice_id = $2::uuid
"""

# Held until the end of the transaction, so that repeats of a request wait for each other.
_LOCK_REQUEST: Final = (
    "SELECT pg_advisory_xact_lock(hashtextextended('billing.invoice_request/' || $1 || '/' || $2, 0))"
)

# One probe of the primary key.
_FIND_REQUEST: Final = """
    SELECT rpc, request, response FROM invoice_requests WHERE organization_id = $1::uuid AND request_id = $2
"""
_KEEP_REQUEST: Final = """
    INSERT INTO invoice_requests (organization_id, request_id, rpc, request, response, create_time)
    VALUES ($1::uuid, $2, $3, $4, $5, $6)
"""


class Head(NamedTuple):
    """The last invoice of an account: after it the next one goes on."""

    position: int
    to_sequence: int
    to_time: datetime
    rest_from: int | None
    rest_amount: Decimal
    grants_used: dict[str, Decimal]


class PaidBy(NamedTuple):
    """A payment by which an invoice is said to be paid."""

    status: str
    currency_code: str
    amount: Decimal
    """What was paid, less what was refunded."""
    brings: str
    brought_unit: str | None
    brought: Decimal | None
    """What it has brought, less what was taken back; None where it brings nothing."""


class Place(NamedTuple):
    """What the chain of an account's invoices keeps of one, beside its step."""

    position: int
    step_amount: Decimal
    rest_from: int | None
    rest_amount: Decimal
    grants_used: dict[str, Decimal]


async def find(connection: RawConnection, organization_id: str, invoice_id: str) -> Document | None:
    row = await connection.fetchrow(_FIND, organization_id, invoice_id)
    return None if row is None else _document(row)


async def lock(connection: RawConnection, organization_id: str, invoice_id: str) -> Document | None:
    """Return a document, whose row stays locked until the transaction ends."""
    row = await connection.fetchrow(_LOCK, organization_id, invoice_id)
    return None if row is None else _document(row)


async def before(connection: RawConnection, organization_id: str, invoice_id: str | None, limit: int) -> list[Document]:
    """Return an organization's documents before one, the latest first, without their lines."""
    return [_document(row) for row in await connection.fetch(_PAGE, organization_id, invoice_id, limit)]


async def of_number(connection: RawConnection, organization_id: str, number: str) -> list[Document]:
    return [_document(row) for row in await connection.fetch(_OF_NUMBER, organization_id, number)]


async def notes_of(connection: RawConnection, organization_id: str, invoice_id: str) -> list[Document]:
    """Return the credit notes of an invoice, the oldest first."""
    return [_document(row) for row in await connection.fetch(_NOTES, organization_id, invoice_id)]


async def lock_account(connection: RawConnection, organization_id: str, account_id: str) -> None:
    await connection.fetchval(_LOCK_ACCOUNT, organization_id, account_id)


async def find_head(connection: RawConnection, organization_id: str, account_id: str) -> Head | None:
    """Return the last invoice of an account, voided or not."""
    row = await connection.fetchrow(_HEAD, organization_id, account_id)
    return None if row is None else Head._make((*row[:5], amounts_of_json(json.loads(row[5]))))


async def find_free(
    connection: RawConnection, organization_id: str, account_id: str, limit: int
) -> tuple[tuple[str, ...], ...]:
    """Return the voided invoices whose movements no other covers yet, each with those that it had replaced."""
    rows = await connection.fetch(_FREE, organization_id, account_id, limit)
    return tuple((row[0], *row[1]) for row in rows)


async def credits_used(
    connection: RawConnection, organization_id: str, invoice_ids: Sequence[str]
) -> dict[str, Decimal]:
    """Return what invoices say was used of grants, in all, by kind."""
    sums: dict[str, Decimal] = {}
    for row in await connection.fetch(_CREDITS_USED, organization_id, list(invoice_ids)):
        for kind, used in amounts_of_json(json.loads(row[0])).items():
            sums[kind] = sums.get(kind, Decimal(0)) + used
    return sums


async def find_steps(connection: RawConnection, organization_id: str, invoice_ids: Sequence[str]) -> list[Step]:
    return [Step(*row) for row in await connection.fetch(_STEPS, organization_id, list(invoice_ids))]


async def due_of(connection: RawConnection, organization_id: str, invoice_ids: Sequence[str]) -> Decimal:
    """Return what invoices had left to pay of their subtotals when they were issued, in all."""
    value: Decimal = await connection.fetchval(_DUE_OF, organization_id, list(invoice_ids))
    return value


async def find_payment(connection: RawConnection, organization_id: str, payment_id: str) -> PaidBy | None:
    """Return what a payment of the organization has brought, and where it is in its life."""
    row = await connection.fetchrow(_PAYMENT, organization_id, payment_id)
    return None if row is None else PaidBy(*row)


async def payment_of(connection: RawConnection, organization_id: str, operation_id: str) -> str | None:
    """Return the payment whose movement an operation is."""
    payment_id: str | None = await connection.fetchval(_PAYMENT_OF, organization_id, operation_id)
    return payment_id


async def paid_with(
    connection: RawConnection, organization_id: str, payment_id: str | None, operation_id: str | None
) -> Decimal:
    """Return what invoices have left to pay that are paid by a payment, by its movements, or by an operation.

    That money is locked until the transaction ends, so that no other invoice is paid with it meanwhile.
    """
    await connection.fetchval(_LOCK_MONEY, organization_id, payment_id or operation_id)
    value: Decimal = await connection.fetchval(_PAID_WITH, organization_id, payment_id, operation_id)
    return value


async def insert(connection: RawConnection, document: Document, prefix: str, place: Place | None) -> str:
    """Store a document under the next number of the prefix, and return the number. `place` is an invoice's."""
    step = document.step
    number: str = await connection.fetchval(
        _INSERT,
        prefix,
        document.organization_id,
        document.invoice_id,
        document.kind.value,
        document.state.value,
        document.account_id,
        document.project_id,
        document.currency_code,
        None if place is None else place.position,
        *((None,) * 5 if step is None else _bounds(step)),
        *((None,) * 3 if place is None else (place.rest_from, place.step_amount, place.rest_amount)),
        document.amounts.subtotal,
        document.amounts.tax,
        document.amounts.credits_applied,
        None if place is None else json.dumps(amounts_json(place.grants_used)),
        list(document.replaces),
        document.corrects_invoice_id,
        document.reason,
        document_json(document),
        document.issue_time,
        document.due_time,
        document.state_time,
        document.actor,
    )
    return number


def _bounds(step: Step) -> tuple[object, ...]:
    return step.after_sequence, step.from_time, step.to_sequence, step.to_time, step.first_sequence


async def set_state(connection: RawConnection, document: Document) -> None:
    """Change the state of a document, and what it is by; its row is locked."""
    await connection.execute(
        _SET_STATE,
        document.organization_id,
        document.invoice_id,
        document.state.value,
        document.state_time,
        document.payment_id,
        document.operation_id,
        document.reason,
    )


async def replace_voided(
    connection: RawConnection, organization_id: str, invoice_ids: Sequence[str], replaced_by: str
) -> None:
    """Note which invoice covers the movements of voided ones again."""
    await connection.execute(_REPLACE, organization_id, list(invoice_ids), replaced_by)


async def add_credited(connection: RawConnection, note: Document) -> None:
    """Add a credit note to what is credited of its invoice, whose row is locked."""
    amounts = note.amounts
    await connection.execute(_CREDIT, note.organization_id, note.corrects_invoice_id, amounts.subtotal, amounts.tax)


async def find_request(
    connection: RawConnection, organization_id: str, request_id: str
) -> tuple[str, bytes, bytes] | None:
    """Return the RPC, the request and the response stored under a request id, which stays locked until the end."""
    await connection.fetchval(_LOCK_REQUEST, organization_id, request_id)
    row = await connection.fetchrow(_FIND_REQUEST, organization_id, request_id)
    return None if row is None else (row[0], row[1], row[2])


async def keep_request(connection: RawConnection, organization_id: str, *values: object) -> None:
    """Store a request with its response; its id is locked."""
    await connection.execute(_KEEP_REQUEST, organization_id, *values)


def _document(row: asyncpg.Record) -> Document:
    stored = document_of_json(row[23])
    step = None if row[8] is None else Step(*row[8:13])
    return Document(
        organization_id=row[0],
        invoice_id=row[1],
        kind=DocumentKind(row[2]),
        state=State(row[3]),
        number=row[4],
        account_id=row[5],
        project_id=row[6],
        currency_code=row[7],
        lines=stored.lines,
        amounts=Amounts(row[13], row[14], row[15], row[16] + row[17]),
        tax=stored.tax,
        issuer=stored.issuer,
        recipient=stored.recipient,
        language=stored.language,
        footer=stored.footer,
        issue_time=row[24],
        state_time=row[26],
        due_time=row[25],
        actor=row[27],
        step=step,
        credits_used=stored.credits_used,
        payment_id=row[20],
        operation_id=row[21],
        corrects_invoice_id=row[19],
        corrects_number=stored.corrects_number,
        reason=row[22],
        replaces=tuple(row[18]),
    )
