"""Reads what a job needs to correct usage, and writes its corrections."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from libs.common.amount import format_amount
from libs.common.database import RawConnection
from libs.common.errors import Conflict
from services.metering.clients.billing import DEBIT, REVERSAL, Charge
from services.metering.usage import given_up
from services.metering.usage.correction import store as correction_store
from services.metering.usage.correction.domain import CorrectionKind, Source
from services.metering.usage.rerate import change_statements
from services.metering.usage.rerate.domain import Change, ChargedUsage
from services.metering.usage.store import counts_text

RERATED: Final = b"rerate"
"""The fingerprint of the corrections of jobs. No request has it."""


class Correcting(NamedTuple):
    """What the corrections of a transaction have in common."""

    organization_id: str
    job_id: str
    reason: str
    actor: str
    now: datetime
    due_time: datetime
    """When the relay makes a movement that was not made by then."""


async def find_sources(
    connection: RawConnection, organization_id: str, usages: Collection[ChargedUsage]
) -> list[Sequence[Source]]:
    """Return the charges of usages with what is left of each, the earliest first, in the order of the usages.

    Most usage has no charge but its own, so that only the outbox is looked into, which is short.
    """
    charges = {(organization_id, one.seen.usage_id): one.own_charge for one in usages if one.may_have_further_charges}
    operation_ids = [one.seen.work.operation_id for one in usages if one.may_have_further_charges]
    found = await correction_store.add_sources(connection, charges, operation_ids) if charges else {}
    plain = [one.own_charge for one in usages if one.own_charge is not None and not one.may_have_further_charges]
    keys = [(organization_id, one.operation_id) for one in plain]
    states = await given_up.states_of(connection, keys) if keys else {}

    def sources_of(one: ChargedUsage) -> Sequence[Source]:
        if one.may_have_further_charges:
            return found[organization_id, one.seen.usage_id]
        own = one.own_charge
        return () if own is None else (own._replace(state=states.get((organization_id, own.operation_id), own.state)),)

    return [sources_of(one) for one in usages]


async def write(connection: RawConnection, correcting: Correcting, changes: Sequence[Change]) -> None:
    """Write corrections of usages with what they change of the hourly sums, and their movements in the outbox.

    The usages are corrected in their order, so that two jobs wait for each other in one order.

    Raises:
        ConstraintViolation: one of the usages was corrected meanwhile.
        Conflict: the same, or one of them is not there any more.
    """
    rows = [row for change in changes for row in _rows(change)]
    count = await connection.fetchval(
        change_statements.CORRECT,
        correcting.organization_id,
        *map(_column, zip(*rows, strict=True)),
        f"rerate:{correcting.job_id}:",
        RERATED,
        CorrectionKind.RERATE.value,
        correcting.reason,
        correcting.actor,
        correcting.now,
        correcting.due_time,
    )
    if count != len(changes):
        raise Conflict


def _rows(change: Change) -> list[tuple[object, ...]]:
    """Return a row of values for each movement of money; one if there is none."""
    usage, _, after, counted, charges = change
    values = (
        usage.seen.usage_id,
        usage.seen.recorded_time,
        usage.seen.corrections + 1,
    )
    costs = (after.amount, after.price_version_id, after.charge_kind, after.provider_cost, after.rate_hours)
    counts = (*counts_text(usage.counted), *counts_text(counted))
    if not charges:
        return [(*values, None, *costs, *counts, None, None, None, None)]
    return [
        (*values, place or None, *costs, *counts, charge_id, format_amount(amount), currency_code, reverses)
        for place, (charge_id, (amount, currency_code, reverses)) in enumerate(charges)
    ]


def _column(values: Sequence[object]) -> Sequence[object]:
    """Return a column as it is sent: one without any value as an empty array, which `unnest` fills with nulls."""
    return () if values.count(None) == len(values) else values


def charges_of(organization_id: str, changes: Sequence[Change]) -> list[Charge]:
    """Return what billing is asked for."""
    return [
        Charge(
            organization_id,
            charge_id,
            DEBIT if reverses is None else REVERSAL,
            format_amount(amount),
            currency_code,
            change.usage.project_id,
            change.usage.seen.work.model,
            None,
            change.usage.user_id,
            reverses,
            change.usage.seen.work.operation_id,
        )
        for change in changes
        for charge_id, (amount, currency_code, reverses) in change.charges
    ]
