"""The statement that stores times whose usage is charged, in the transaction that ends them."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from libs.common.database import RawConnection
from services.billing.plan.usage_charge_domain import usage_charge_json
from services.billing.subscription.usage_periods import UsagePeriod

# The row of each subscription is locked, so nobody else adds the same.
_ADD: Final = """
    INSERT INTO usage_periods (organization_id, subscription_id, start_time, usage_charge_code, end_time, plan_code,
        plan_version, currency_code, with_unsubscribed, charge, base, quantity, amount, sequence, due_time, looked_time,
        attempts, error, create_time)
    SELECT v.*, 0, 0, 0, $12::timestamptz, NULL, 0, '', $12::timestamptz
    FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[], $5::timestamptz[], $6::text[], $7::integer[],
        $8::text[], $9::boolean[], $10::jsonb[], $11::numeric[]) AS v
"""


async def add(connection: RawConnection, periods: Sequence[UsagePeriod], now: datetime) -> None:
    """Store times that have ended. They are looked at from now on."""
    if not periods:
        return
    rows = [
        (
            one.organization_id,
            one.subscription_id,
            one.start,
            one.code,
            one.end,
            one.plan.plan_code,
            one.plan.version,
            one.currency_code,
            one.with_unsubscribed,
            None if one.charge is None else json.dumps(usage_charge_json(one.charge)),
            one.base,
        )
        for one in periods
    ]
    await connection.execute(_ADD, *zip(*rows, strict=True), now)
