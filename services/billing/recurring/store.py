"""The statements on payments that pay subscriptions, and on what providers say of those that they renew.

Each touches one shard, and finds its rows by a primary key or by the index that it names.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from libs.common.database import RawConnection
from services.billing.payment.provider import ExternalSubscriptionStatus
from services.billing.plan.domain import Money
from services.billing.subscription.domain import Subscription, Way


@dataclass(frozen=True, slots=True)
class External:
    """What a provider said last of a subscription that it renews."""

    organization_id: str
    provider: str
    external_id: str
    payment_id: str
    """The first payment."""
    status: ExternalSubscriptionStatus
    ends_time: datetime | None
    version_time: datetime
    subscription_id: str | None
    """Our subscription; None until it is made, and where none was."""


# By the unique operation.
_PAYMENT_OF: Final = """
    SELECT payment_id::text FROM period_payments WHERE organization_id = $1::uuid AND operation_id = $2
"""
# The index of payments by subscription. A payment whose charge was given up has not paid anything. Where a price is
# given, it must be left of the payment, and one that was refunded or is disputed pays nothing.
_UNUSED: Final = """
    SELECT p.payment_id::text
    FROM payments AS p
    LEFT JOIN period_payments AS u
        ON u.organization_id = ANY (ARRAY[p.organization_id]) AND u.payment_id = p.payment_id
    LEFT JOIN LATERAL (
        SELECT operation_id FROM transactions
        WHERE organization_id = u.organization_id AND operation_id = u.operation_id
        OFFSET 0
    ) AS t ON true
    WHERE p.organization_id = $1::uuid AND p.subscription_id = $2::uuid AND p.provider = $3
        AND p.type = 'SUBSCRIPTION' AND p.awarded AND p.brings = 'MONEY' AND t.operation_id IS NULL
        AND p.credits_currency_code = $4
        AND p.credits_amount - p.taken_credits - p.taken_money - p.written_off >= $5
        AND ($5 = 0 OR p.status IN ('COMPLETED', 'PARTIALLY_REFUNDED'))
    ORDER BY p.payment_id LIMIT 1
"""
# By primary key.
_USE: Final = """
    INSERT INTO period_payments AS u (organization_id, payment_id, subscription_id, operation_id, create_time)
    VALUES ($1::uuid, $2::uuid, $3::uuid, $4, $5)
    ON CONFLICT ON CONSTRAINT period_payments_pkey DO UPDATE SET operation_id = excluded.operation_id,
        create_time = excluded.create_time
"""
_SET_SUBSCRIPTION: Final = """
    UPDATE payments SET subscription_id = $3::uuid WHERE organization_id = $1::uuid AND payment_id = $2::uuid
"""
# The index of payments by external subscription.
_ADOPT: Final = """
    UPDATE payments SET subscription_id = $3::uuid
    WHERE organization_id = $1::uuid AND external_subscription_id = $2 AND subscription_id IS NULL
        AND first_payment_id IS NOT NULL
"""
_EXTERNAL_COLUMNS: Final = """
    organization_id::text, provider, external_id, payment_id::text, status, ends_time, version_time,
    subscription_id::text
"""
# By primary key.
_EXTERNAL: Final = f"""
    SELECT {_EXTERNAL_COLUMNS} FROM external_subscriptions
    WHERE organization_id = $1::uuid AND provider = $2 AND external_id = $3
"""  # noqa: S608 -- names of ours alone.
# The organization's range of the primary key, which has a few rows.
_EXTERNALS: Final = f"""
    SELECT {_EXTERNAL_COLUMNS} FROM external_subscriptions WHERE organization_id = $1::uuid
    ORDER BY payment_id, external_id LIMIT 1000
"""  # noqa: S608
_LINK: Final = """
    UPDATE external_subscriptions SET subscription_id = $4::uuid
    WHERE organization_id = $1::uuid AND provider = $2 AND external_id = $3
"""
# A range of the primary key: the events of one subscription.
_RENEWAL_CHANGED: Final = """
    SELECT kind, actor, create_time FROM subscription_events
    WHERE organization_id = $1::uuid AND subscription_id = $2::uuid AND NOT planned
        AND kind IN ('CANCELLATION_SCHEDULED', 'CANCELLATION_WITHDRAWN')
    ORDER BY sequence DESC LIMIT 1
"""
_PAUSED_BY: Final = """
    SELECT actor FROM subscription_events
    WHERE organization_id = $1::uuid AND subscription_id = $2::uuid AND NOT planned AND kind = 'PAUSED'
    ORDER BY sequence DESC LIMIT 1
"""


async def payment_of(connection: RawConnection, organization_id: str, operation_id: str) -> str | None:
    """Return the payment that a charge is paid by, as was decided before."""
    found: str | None = await connection.fetchval(_PAYMENT_OF, organization_id, operation_id)
    return found


async def find_unused(connection: RawConnection, subscription: Subscription, price: Money) -> str | None:
    """Return the first payment of a subscription through its provider that has paid nothing yet.

    A saved method was charged a price, so as much must be left of the payment after refunds and disputes. What a
    provider renews by itself it charges by the plan, and a refund of that does not end the subscription.
    """
    s = subscription
    found: str | None = await connection.fetchval(
        _UNUSED,
        s.organization_id,
        s.subscription_id,
        s.collection_provider,
        price.currency_code,
        price.value if s.collection is Way.SAVED_METHOD else 0,
    )
    return found


async def use(
    connection: RawConnection,
    organization_id: str,
    payment_id: str,
    subscription_id: str,
    operation_id: str,
    now: datetime,
) -> None:
    """Note that a payment pays a charge. The subscription's row is locked."""
    await connection.execute(_USE, organization_id, payment_id, subscription_id, operation_id, now)


async def set_subscription(
    connection: RawConnection, organization_id: str, payment_id: str, subscription_id: str | None
) -> None:
    """Note which subscription a payment is for."""
    await connection.execute(_SET_SUBSCRIPTION, organization_id, payment_id, subscription_id)


async def find_external(
    connection: RawConnection, organization_id: str, provider: str, external_id: str
) -> External | None:
    """Return what a provider said last of a subscription."""
    row = await connection.fetchrow(_EXTERNAL, organization_id, provider, external_id)
    return None if row is None else _external(row)


async def find_externals(connection: RawConnection, organization_id: str) -> list[External]:
    """Return what providers said of an organization's subscriptions, by their first payments, the earliest first."""
    return [_external(row) for row in await connection.fetch(_EXTERNALS, organization_id)]


async def link(connection: RawConnection, external: External, subscription_id: str) -> None:
    """Note which subscription is paid by one that a provider renews; its payments are that one's."""
    key = external.organization_id, external.provider, external.external_id
    await connection.execute(_LINK, *key, subscription_id)
    name = f"{external.provider}/{external.external_id}"
    await connection.execute(_ADOPT, external.organization_id, name, subscription_id)


async def renewal_changed(
    connection: RawConnection, organization_id: str, subscription_id: str
) -> tuple[str, str, datetime] | None:
    """Return what was said last here of whether a subscription goes on after its period: the kind, who, and when."""
    row = await connection.fetchrow(_RENEWAL_CHANGED, organization_id, subscription_id)
    return None if row is None else (row[0], row[1], row[2])


async def paused_by(connection: RawConnection, organization_id: str, subscription_id: str) -> str | None:
    """Return who paused a subscription last."""
    found: str | None = await connection.fetchval(_PAUSED_BY, organization_id, subscription_id)
    return found


def _external(row: asyncpg.Record) -> External:
    organization_id, provider, external_id, payment_id, status, *rest = tuple(row)
    return External(organization_id, provider, external_id, payment_id, ExternalSubscriptionStatus(status), *rest)
