"""The statements on admission policies, by primary key where they say nothing else."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from libs.common.database import RawConnection
from services.metering.admission.policy import Entry, FixedAmount, LapseCharge, OutputHold, Policy

_COLUMNS: Final = """organization_id::text, output_hold, output_tokens_cap, fixed_amount, fixed_currency_code,
    lapse_charge, lapse_after_ms, revision, update_time, lapse_charge_time"""

_FIND: Final = f"SELECT {_COLUMNS} FROM admission_policies WHERE organization_id = ANY($1::uuid[])"  # noqa: S608 -- ours.
_LOCK: Final = f"SELECT {_COLUMNS} FROM admission_policies WHERE organization_id = $1::uuid FOR UPDATE"  # noqa: S608

_ADD: Final = """
INSERT INTO admission_policies (organization_id, output_hold, output_tokens_cap, fixed_amount, fixed_currency_code,
    lapse_charge, lapse_after_ms, revision, update_time, lapse_charge_time)
VALUES ($1::uuid, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING RETURNING true
"""

_REPLACE: Final = """
UPDATE admission_policies SET output_hold = $2, output_tokens_cap = $3, fixed_amount = $4, fixed_currency_code = $5,
    lapse_charge = $6, lapse_after_ms = $7, revision = $8, update_time = $9, lapse_charge_time = $10
WHERE organization_id = $1::uuid
"""

_BEGIN_WALK: Final = """
INSERT INTO lapse_walks (organization_id, create_time, operation_id) VALUES ($1::uuid, $2, '') ON CONFLICT DO NOTHING
"""
_END_WALK: Final = "DELETE FROM lapse_walks WHERE organization_id = $1::uuid"

_MILLISECOND: Final = timedelta(milliseconds=1)


async def find(connection: RawConnection, organization_ids: Collection[str]) -> dict[str, Entry]:
    """Return the policies of those organizations that have one of their own."""
    return {row[0]: _entry(row) for row in await connection.fetch(_FIND, list(organization_ids))}


async def lock(connection: RawConnection, organization_id: str) -> Entry | None:
    """Return an organization's policy, locked against other changes; None where it has none of its own."""
    row = await connection.fetchrow(_LOCK, organization_id)
    return None if row is None else _entry(row)


async def add(connection: RawConnection, organization_id: str, entry: Entry) -> bool:
    """Give an organization its first policy; return whether it had none. Waits for whoever is giving it one."""
    return bool(await connection.fetchval(_ADD, organization_id, *_values(entry)))


async def change(connection: RawConnection, organization_id: str, entry: Entry) -> None:
    await connection.execute(_REPLACE, organization_id, *_values(entry))


async def begin_walk(connection: RawConnection, organization_id: str, start_time: datetime) -> None:
    """Let the authorizations of an organization be looked through for those that lapse, from a moment on."""
    await connection.execute(_BEGIN_WALK, organization_id, start_time)


async def end_walk(connection: RawConnection, organization_id: str) -> None:
    """Let the authorizations of an organization be looked through no more."""
    await connection.execute(_END_WALK, organization_id)


def _values(entry: Entry) -> tuple[object, ...]:
    policy = entry.policy
    return (
        policy.output_hold.value,
        policy.output_tokens_cap,
        *(policy.fixed_amount or (None, None)),
        policy.lapse_charge.value,
        policy.lapse_after // _MILLISECOND,
        entry.revision,
        entry.update_time,
        entry.lapse_charge_time,
    )


def _entry(row: asyncpg.Record) -> Entry:
    policy = Policy(
        OutputHold(row["output_hold"]),
        row["output_tokens_cap"],
        None if row["fixed_amount"] is None else FixedAmount(row["fixed_amount"], row["fixed_currency_code"]),
        LapseCharge(row["lapse_charge"]),
        row["lapse_after_ms"] * _MILLISECOND,
    )
    return Entry(policy, row["revision"], row["update_time"], row["lapse_charge_time"])
