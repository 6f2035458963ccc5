"""The statements on subscriptions that providers renew."""

from datetime import datetime
from typing import Final

from libs.common.database import RawConnection
from services.billing import next_steps
from services.billing.payment.provider import ExternalSubscriptionStatus, Result, SubscriptionFact
from services.billing.payment.references import Claim

# One row by primary key. Of two facts of one version that counts whose status comes later in this order.
_STEP: Final = next_steps.StepKind.EXTERNAL_SUBSCRIPTION
_ORDER: Final = [status.value for status in ExternalSubscriptionStatus]
_PUT: Final = """
    INSERT INTO external_subscriptions AS s (
        organization_id, provider, external_id, payment_id, status, external_customer_id, external_plan_id, renews_time,
        ends_time, version_time, version_number, update_time
    ) VALUES ($1::uuid, $2, $3, $4::uuid, $5, $6, $7, $8, $9, $10, $11, $12)
    ON CONFLICT ON CONSTRAINT external_subscriptions_pkey DO UPDATE SET status = excluded.status,
        external_customer_id = excluded.external_customer_id, external_plan_id = excluded.external_plan_id,
        renews_time = excluded.renews_time, ends_time = excluded.ends_time, version_time = excluded.version_time,
        version_number = excluded.version_number, update_time = excluded.update_time
    WHERE (s.version_time, s.version_number, array_position($13::text[], s.status))
        < (excluded.version_time, excluded.version_number, array_position($13::text[], excluded.status))
    RETURNING true
"""
_VERSION: Final = """
    SELECT version_time, version_number FROM external_subscriptions
    WHERE organization_id = $1::uuid AND provider = $2 AND external_id = $3
"""


async def put(connection: RawConnection, claim: Claim, fact: SubscriptionFact, now: datetime) -> Result:
    """Store what a provider says of a subscription, unless something newer is stored."""
    version = fact.version
    changed = await connection.fetchval(
        _PUT,
        claim.organization_id,
        fact.provider,
        fact.external_id,
        claim.payment_id,
        fact.status.value,
        fact.customer,
        fact.plan_external_id,
        fact.renews_time,
        fact.ends_time,
        version.time,
        version.number,
        now,
        _ORDER,
    )
    if changed:
        key = f"{fact.provider}/{fact.external_id}"
        await next_steps.add(connection, claim.organization_id, _STEP, key, now)
        return Result.APPLIED
    row = await connection.fetchrow(_VERSION, claim.organization_id, fact.provider, fact.external_id)
    known = (row["version_time"], row["version_number"]) if row is not None else None
    return Result.REPEATED if known == (version.time, version.number) else Result.LATE
