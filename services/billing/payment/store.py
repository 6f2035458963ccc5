"""The statements on payments of organizations. Each finds its rows by the primary key, or by the index it names."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from libs.common.database import RawConnection
from libs.common.timestamps import micros_of, moment_of
from services.billing.ledger.domain import Source
from services.billing.payment.domain import (
    Brings,
    Credits,
    Payment,
    PaymentStatus,
    PaymentType,
    is_settled,
)
from services.billing.payment.movements import Moved
from services.billing.payment.provider import Version
from services.billing.payment.said import Field, Said, Saying, is_of_object

_COLUMNS: Final = """
    organization_id::text, payment_id::text, type, provider, user_id::text, amount, currency_code, brings,
    credits_amount, credits_currency_code, credits_priority, credits_expire_days, credits_expire_time, awarded,
    grant_id::text, said::text, taken_credits, taken_money, written_off, steps, product_code, plan_code,
    subscription_id::text, first_payment_id::text, external_subscription_id, external_customer_id, external_product_id,
    operation_id, request::text, checkout_url, checkout_expire_time, description, metadata::text, is_test, reason,
    actor, revision, create_time, update_time, status, refunded_amount, plan_id::text, plan_version,
    subscriber_user_id::text
"""
_SELECT: Final = f"SELECT {_COLUMNS} FROM payments"  # noqa: S608 -- names of ours alone.

_FIND: Final = f"{_SELECT} WHERE organization_id = $1::uuid AND payment_id = $2::uuid"
_FIND_BY_OPERATION: Final = f"{_SELECT} WHERE organization_id = $1::uuid AND operation_id = $2"
_LOCK: Final = f"{_FIND} FOR UPDATE"
# The last payment that names a customer of the provider, of the organization or of a user: a range of the primary key,
# or of `payments_by_user`.
_CUSTOMERS: Final = """
    SELECT external_customer_id FROM payments
    WHERE organization_id = $1::uuid AND external_customer_id IS NOT NULL AND starts_with(external_customer_id, $2)
        AND status NOT IN ('PENDING', 'FAILED')
"""
_LAST: Final = "ORDER BY payment_id DESC LIMIT 1"
_CUSTOMER: Final = f"{_CUSTOMERS} {_LAST}"
_CUSTOMER_OF_USER: Final = f"{_CUSTOMERS} AND user_id = $3::uuid {_LAST}"

_INSERT: Final = """
    INSERT INTO payments (
        organization_id, payment_id, type, status, provider, user_id, amount, currency_code, brings, credits_amount,
        credits_currency_code, credits_priority, credits_expire_days, credits_expire_time, awarded, grant_id, said,
        refunded_amount, taken_credits, taken_money, written_off, steps, settled, product_code, plan_code,
        subscription_id, first_payment_id, external_subscription_id, external_customer_id, external_product_id,
        operation_id, request, checkout_url, checkout_expire_time, description, metadata, is_test, reason, actor,
        revision, create_time, update_time, plan_id, plan_version, subscriber_user_id
    ) VALUES (
        $1::uuid, $2::uuid, $3, $4, $5, $6::uuid, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16::uuid, $17::jsonb, $18,
        $19, $20, $21, $22, $23, $24, $25, $26::uuid, $27::uuid, $28, $29, $30, $31, $32::jsonb, $33, $34, $35,
        $36::jsonb, $37, $38, $39, 1, $40, $41, $42::uuid, $43, $44::uuid
    ) ON CONFLICT ON CONSTRAINT payments_pkey DO NOTHING RETURNING revision
"""

# One row by primary key, if it is as it was read.
_UPDATE: Final = """
    UPDATE payments SET status = $4, awarded = $5, grant_id = $6::uuid, said = $7::jsonb, refunded_amount = $8,
        taken_credits = $9, taken_money = $10, written_off = $11, steps = $12, settled = $13,
        external_subscription_id = $14, external_customer_id = $15, checkout_url = $16, revision = revision + 1,
        update_time = $17
    WHERE organization_id = $1::uuid AND payment_id = $2::uuid AND revision = $3 RETURNING revision
"""

_ADD_MOVED: Final = """
    INSERT INTO payment_movements (
        organization_id, payment_id, sequence, kind, operation_id, grant_operation_id, grant_id, amount, create_time
    )
    SELECT $1::uuid, $2::uuid, v.sequence, v.kind, v.operation_id, v.grant_operation_id, v.grant_id, v.amount, $3
    FROM unnest($4::integer[], $5::text[], $6::text[], $7::text[], $8::uuid[], $9::numeric[])
        AS v (sequence, kind, operation_id, grant_operation_id, grant_id, amount)
"""

# A range of the primary key, and one probe of the unique operation of a movement for each of its rows.
_SOURCES: Final = """
    SELECT t.transaction_id::text, m.grant_id::text, m.grant_operation_id
    FROM payment_movements m
    JOIN transactions t ON t.organization_id = ANY (ARRAY[m.organization_id]) AND t.operation_id = m.operation_id
    WHERE m.organization_id = $1::uuid AND m.payment_id = $2::uuid
        AND m.kind IN ('AWARDED_MONEY', 'AWARDED_CREDITS', 'GIVEN_MONEY', 'GIVEN_CREDITS')
    ORDER BY m.sequence
"""

# The index of payments that are not settled, in pages; the account of each by its unique key on owner and currency.
_UNSETTLED: Final = """
    SELECT p.organization_id::text, p.payment_id::text, coalesce(a.state = 'CLOSED', false)
    FROM (
        SELECT organization_id, payment_id, credits_currency_code FROM payments
        WHERE NOT settled AND (organization_id, payment_id) > ($1::uuid, $2::uuid) AND update_time < $3
        ORDER BY organization_id, payment_id LIMIT $4
    ) AS p
    LEFT JOIN accounts AS a ON a.organization_id = ANY (ARRAY[p.organization_id])
        AND a.owner_id = p.organization_id AND a.currency_code = p.credits_currency_code
    ORDER BY p.organization_id, p.payment_id
"""

_BEFORE: Final = "coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)"


def _owned(column: str, kind: str) -> tuple[str, str]:
    """Return the clause and the order of a range of an index. Rows are compared and sorted with the column, so that no
    other index can be used, whatever Postgres believes of it."""
    clause = f"""AND ({column}, payment_id) < ($4::{kind}, {_BEFORE})
            AND ({column}, payment_id) >= ($4::{kind}, '00000000-0000-0000-0000-000000000000'::uuid)"""
    return clause, f"payments.{column} DESC, "


# Each is a range of the primary key or of one index, backwards.
_LISTS: Final = {
    name: f"""
        {_SELECT} WHERE organization_id = $1::uuid AND payment_id < {_BEFORE} {clause}
        ORDER BY {order}payments.payment_id DESC LIMIT $3
    """
    for name, (clause, order) in {
        "": ("", ""),
        "payment_id": ("AND payment_id = $4::uuid", ""),
        "subscription_id": ("AND subscription_id = $4::uuid", ""),
        "external_subscription": ("AND external_subscription_id = $4", ""),
        "external_customer": ("AND external_customer_id = $4", ""),
        "user_id": _owned("user_id", "uuid"),
        "status": _owned("status", "text"),
    }.items()
}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which payments of an organization are wanted; None for any."""

    payment_id: str | None = None
    user_id: str | None = None
    subscription_id: str | None = None
    external_subscription: str | None = None
    """The provider, a slash and its id."""
    external_customer: str | None = None
    status: PaymentStatus | None = None
    type: PaymentType | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None

    @property
    def is_empty(self) -> bool:
        return self == Filter()

    @property
    def index(self) -> tuple[str, tuple[str, ...]]:
        """The first filter that is set and has an index, and its values."""
        named = {
            "payment_id": self.payment_id,
            "subscription_id": self.subscription_id,
            "external_subscription": self.external_subscription,
            "external_customer": self.external_customer,
            "user_id": self.user_id,
            "status": None if self.status is None else self.status.value,
        }
        found = [(name, (value,)) for name, value in named.items() if value is not None]
        return found[0] if found else ("", ())

    def takes(self, one: Payment) -> bool:
        """Return whether a payment is wanted."""
        return (
            self.payment_id in (None, one.payment_id)
            and self.user_id in (None, one.user_id)
            and self.subscription_id in (None, one.subscription_id)
            and self.external_subscription in (None, one.external_subscription_id)
            and self.external_customer in (None, one.external_customer_id)
            and self.status in (None, one.status)
            and self.type in (None, one.type)
            and (self.start_time is None or one.create_time >= self.start_time)
            and (self.end_time is None or one.create_time < self.end_time)
        )


async def find(connection: RawConnection, organization_id: str, payment_id: str) -> Payment | None:
    """Return a payment."""
    row = await connection.fetchrow(_FIND, organization_id, payment_id)
    return None if row is None else _payment(row)


async def lock(connection: RawConnection, organization_id: str, payment_id: str) -> Payment | None:
    """Return a payment, and lock its row until the transaction ends."""
    row = await connection.fetchrow(_LOCK, organization_id, payment_id)
    return None if row is None else _payment(row)


async def find_customer(
    connection: RawConnection, organization_id: str, provider: str, user_id: str | None = None
) -> str | None:
    """Return the provider's id of the customer who made the last payment there: of the organization, or of a user."""
    named = organization_id, f"{provider}/"
    found: str | None = (
        await connection.fetchval(_CUSTOMER, *named)
        if user_id is None
        else await connection.fetchval(_CUSTOMER_OF_USER, *named, user_id)
    )
    return None if found is None else found.removeprefix(f"{provider}/")


async def find_by_operation(connection: RawConnection, organization_id: str, operation_id: str) -> Payment | None:
    """Return the payment of a caller's own id; by the unique key."""
    row = await connection.fetchrow(_FIND_BY_OPERATION, organization_id, operation_id)
    return None if row is None else _payment(row)


async def put(connection: RawConnection, payment: Payment) -> bool:
    """Add a payment, or change one that is as it was read; return whether that was so."""
    if not payment.revision:
        return await connection.fetchval(_INSERT, *_values(payment)) is not None
    changed = await connection.fetchval(
        _UPDATE,
        payment.organization_id,
        payment.payment_id,
        payment.revision,
        payment.status,
        payment.awarded,
        payment.grant_id,
        _said_json(payment.said),
        payment.refunded_amount,
        payment.taken_credits,
        payment.taken_money,
        payment.written_off,
        payment.steps,
        is_settled(payment),
        payment.external_subscription_id,
        payment.external_customer_id,
        payment.checkout_url,
        payment.update_time,
    )
    return changed is not None


async def add_moved(
    connection: RawConnection, payment: Payment, moved: Sequence[Moved], first: int, now: datetime
) -> None:
    """Add what a step of a payment moved; `first` is the number of the first row."""
    await connection.execute(
        _ADD_MOVED,
        payment.organization_id,
        payment.payment_id,
        now,
        list(range(first, first + len(moved))),
        [one.kind.value for one in moved],
        [one.operation_id for one in moved],
        [one.grant_operation_id for one in moved],
        [one.grant_id for one in moved],
        [one.amount for one in moved],
    )


async def find_sources(connection: RawConnection, organization_id: str, payment_id: str) -> tuple[Source, ...]:
    """Return the movements with which a payment has brought something, the first one first."""
    return tuple(Source(*row) for row in await connection.fetch(_SOURCES, organization_id, payment_id))


async def unsettled(
    connection: RawConnection, after: tuple[str, str], before: datetime, limit: int
) -> list[tuple[str, str, bool]]:
    """Return payments after one that are not settled since a time, and whether the account of each is closed."""
    return [tuple(row) for row in await connection.fetch(_UNSETTLED, *after, before, limit)]


async def before(
    connection: RawConnection, organization_id: str, wanted: Filter, before: str | None, limit: int
) -> list[Payment]:
    """Return payments before one, the latest first: those that the first filter takes which has an index.

    The caller applies the other filters.
    """
    name, values = wanted.index
    rows = await connection.fetch(_LISTS[name], organization_id, before, limit, *values)
    return list(map(_payment, rows))


def _values(p: Payment) -> tuple[object, ...]:
    c = p.credits
    return (
        *(p.organization_id, p.payment_id, p.type.value, p.status.value, p.provider, p.user_id, p.amount),
        *(p.currency_code, p.brings.value, c and c.amount, c and c.currency_code, c.priority if c else 0),
        *(c.expire_after_days if c else 0, c and c.expire_time, p.awarded, p.grant_id, _said_json(p.said)),
        *(p.refunded_amount, p.taken_credits, p.taken_money, p.written_off, p.steps, is_settled(p), p.product_code),
        *(p.plan_code, p.subscription_id, p.first_payment_id, p.external_subscription_id, p.external_customer_id),
        *(p.external_product_id, p.operation_id, None if p.request is None else json.dumps(p.request)),
        *(p.checkout_url, p.checkout_expire_time, p.description),
        *(json.dumps(dict(p.metadata)) if p.metadata else None, p.is_test, p.reason, p.actor),
        *(p.create_time, p.update_time, p.plan_id, p.plan_version, p.subscriber_user_id),
    )


def _said_json(said: Said) -> str:
    return json.dumps(
        {
            str(field): [micros_of(saying.version.time), saying.version.number, saying.value]
            for field, saying in said.items()
        }
    )


def _said(text: str) -> dict[str, Saying]:
    loaded: Mapping[str, tuple[int, int, str]] = json.loads(text)
    return {
        name if is_of_object(name) else Field(name): Saying(Version(moment_of(time), number), value)
        for name, (time, number, value) in loaded.items()
    }


def _payment(row: asyncpg.Record) -> Payment:
    brings = Brings(row["brings"])
    credits_ = None
    if brings is not Brings.NOTHING:
        credits_ = Credits(
            row["credits_currency_code"],
            row["credits_amount"],
            row["credits_priority"],
            row["credits_expire_days"],
            row["credits_expire_time"],
        )
    fields: dict[str, Any] = dict(row)
    for name in list(fields):
        if name.startswith("credits_"):
            del fields[name]
    fields["stored_status"], fields["stored_refunded"] = (
        PaymentStatus(fields.pop("status")),
        fields.pop("refunded_amount"),
    )
    fields |= {
        "type": PaymentType(row["type"]),
        "brings": brings,
        "credits": credits_,
        "said": _said(row["said"]),
        "request": None if row["request"] is None else json.loads(row["request"]),
        "metadata": None if row["metadata"] is None else json.loads(row["metadata"]),
    }
    return Payment(**fields)
