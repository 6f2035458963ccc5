"""Reading and writing corrections; the text of the statements, with their indexes, is in `statements`."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

import asyncpg

from libs.common.amount import format_amount
from libs.common.database import RawConnection
from services.metering.clients.billing import DEBIT, REVERSAL, Charge
from services.metering.quota.domain import NOTHING_RESERVED
from services.metering.usage import given_up
from services.metering.usage.correction import statements
from services.metering.usage.correction.domain import (
    Correction,
    CorrectionCharge,
    CorrectionKind,
    Counted,
    Movement,
    Source,
    State,
)
from services.metering.usage.domain import PENDING, PENDING_PRICE, REFUSED, SETTLED, Counts, Recorded
from services.metering.usage.store import Key, columns_of, recorded_of


class Planned(NamedTuple):
    """A correction that is to be written, with the state that it was decided on."""

    correction: Correction
    state: State
    before_counted: Counted
    after_counted: Counted
    unmade: Sequence[CorrectionCharge]
    """What would give refused charges back: it is written, so that sums are right, and never sent."""
    refused: Sequence[str]
    """The charges that billing refused, and that the correction gives up."""

    @property
    def usage_key(self) -> Key:
        return self.correction.organization_id, self.correction.usage_id

    @property
    def operation_key(self) -> Key:
        return self.correction.organization_id, self.correction.usage_operation_id

    @property
    def moments(self) -> Sequence[datetime]:
        """The times in whose sums it changes something, and that at which the usage was recorded."""
        lines = (self.correction.before, self.correction.after)
        return [self.state.original.work.occur_time, *(one.work.occur_time for one in lines if one is not None)]


class Mark(NamedTuple):
    """What corrections have made of a usage."""

    corrections: int
    voided: bool
    now: Recorded | None = None
    """What it is, where it was recorded without a price and does not wait for one any more. Voided it has no cost."""


async def find_states(connection: RawConnection, keys: Collection[Key]) -> dict[Key, State]:
    """Return what usages are now, by organization and operation id; those that are not recorded are left out."""
    rows = await connection.fetch(statements.ORIGINALS, *_arrays(keys))
    states: dict[Key, State] = {}
    for row in rows:
        usage = recorded_of(row)
        counted = _counted(row["counters"], row["counted"]) | _counted(row["priced_counters"], row["priced_counted"])
        key = usage.work.organization_id, usage.work.operation_id
        states[key] = State(usage, counted, voided=False, number=0, original=usage)
    usage_keys = [(key[0], state.usage.usage_id) for key, state in states.items()]
    for row in await connection.fetch(statements.LAST_LINES, *_arrays(usage_keys)) if usage_keys else ():
        line = recorded_of(row)
        key = line.work.organization_id, line.work.operation_id
        original = states[key].usage
        usage = line._replace(create_time=original.create_time, captured_before=original.captured_before)
        counted = _counted(row["counters"], row["counted"])
        states[key] = State(usage, counted, not row["added"], row["number"], original)
    return states


async def find_sources(connection: RawConnection, originals: Mapping[Key, Recorded]) -> dict[Key, list[Source]]:
    """Return the charges of usages with what is left of each, the earliest first, by organization and usage id.

    `originals` are the usages as they were recorded, or priced without a correction.
    """
    charges: dict[Key, Source | None] = {}
    for key, usage in originals.items():
        is_charged = usage.cost is not None and usage.cost.charge_kind is not None and usage.charged_amount != "0"
        currency_code = "" if usage.cost is None else usage.cost.currency_code
        own = Source(usage.work.operation_id, Decimal(usage.charged_amount), currency_code)
        charges[key] = own if is_charged else None
    return await add_sources(connection, charges, [usage.work.operation_id for usage in originals.values()])


async def add_sources(
    connection: RawConnection, charges: Mapping[Key, Source | None], operation_ids: Sequence[str]
) -> dict[Key, list[Source]]:
    """Return the same for usages whose own charges are known, and their operation ids, in the same order."""
    found = {key: [] if own is None else [own] for key, own in charges.items()}
    given_back: defaultdict[Key, Decimal] = defaultdict(Decimal)
    for row in await connection.fetch(statements.SOURCES, *_arrays(charges), operation_ids):
        key = row[0], row[1]
        if row["reverses_operation_id"] is None:
            source = Source(row["operation_id"], row["amount"], row["currency_code"])
            # Parts were charged before the usage itself.
            found[key].insert(0 if row["number"] == 0 else len(found[key]), source)
        else:
            given_back[row[0], row["reverses_operation_id"]] += row["amount"]
    listed = [(key[0], one.operation_id) for key, sources in found.items() for one in sources]
    states = await given_up.states_of(connection, listed) if listed else {}
    return {
        key: [
            one._replace(
                left=one.left - given_back[key[0], one.operation_id],
                state=states.get((key[0], one.operation_id), SETTLED),
            )
            for one in sources
        ]
        for key, sources in found.items()
    }


async def lock(connection: RawConnection, planned: Sequence[Planned]) -> bool:
    """Lock the usages of corrections; tell whether all of them are as they were when the corrections were decided."""
    keys = {one.operation_key for one in planned}
    locked = await connection.fetch(statements.LOCK, *_arrays(keys))
    if len(locked) < len(keys):
        return False
    waiting = {one.usage_key for one in planned if one.state.now is not None and one.state.usage.cost is None}
    found = await connection.fetch(statements.LOCK_UNPRICED, *_arrays(waiting)) if waiting else ()
    if len(found) < len(waiting):
        return False
    numbers = {one.usage_key: one.state.number for one in planned}
    rows = await connection.fetch(statements.NUMBERS, *_arrays(numbers))
    if {(row[0], row[1]): row[2] for row in rows} != numbers:
        return False
    refused = {(one.correction.organization_id, charge_id) for one in planned for charge_id in one.refused}
    return not refused or await given_up.lock_refused(connection, refused)


async def write(connection: RawConnection, planned: Sequence[Planned], *, now: datetime, due_time: datetime) -> None:
    """Write corrections with what they change of the hourly sums, and their movements in the outbox.

    Raises:
        ConstraintViolation: one of the operation ids was used meanwhile.
    """
    corrections = [one.correction for one in planned]
    await connection.execute(
        statements.ADD_CORRECTIONS,
        *_columns((*one[:3], one.kind.value, *one[4:10]) for one in corrections),
    )
    lines: list[tuple[Recorded, int, bool]] = []
    for one in planned:
        number = one.correction.number
        if one.correction.before is not None:
            lines.append((_line(one.correction.before, one.before_counted), number, False))
        if one.correction.after is not None:
            lines.append((_line(one.correction.after, one.after_counted), number, True))
    await connection.fetchval(
        statements.ADD_LINES,
        *columns_of([line for line, _, _ in lines]),
        [number for _, number, _ in lines],
        [added for _, _, added in lines],
        now,
    )
    await _write_charges(connection, planned, now, due_time)
    refused = [(*one.usage_key, charge_id) for one in planned for charge_id in one.refused]
    if refused:
        await given_up.give_up(connection, refused)
    await _write_waiting(connection, planned)


async def _write_charges(
    connection: RawConnection, planned: Sequence[Planned], now: datetime, due_time: datetime
) -> None:
    rows = [
        (
            one.organization_id,
            charge.operation_id,
            one.usage_id,
            one.number,
            position,
            format_amount(charge.movement.amount),
            charge.movement.currency_code,
            charge.movement.reverses_operation_id,
            _usage_of(one).work.occur_time,
            one.usage_operation_id,
            _usage_of(one).work.model,
            _usage_of(one).work.project_id,
            _usage_of(one).work.user_id,
        )
        for one, unmade in ((each.correction, each.unmade) for each in planned)
        for position, charge in enumerate([*one.charges, *unmade])
    ]
    if rows:
        await connection.execute(statements.ADD_CHARGES, *_columns(rows), now, due_time)


async def _write_waiting(connection: RawConnection, planned: Sequence[Planned]) -> None:
    """Note which usage waits for a price after corrections, and which does no more."""
    waits = [one for one in planned if one.correction.after is not None and one.correction.after.cost is None]
    stops = {one.usage_key for one in planned if one.state.usage.cost is None} - {one.usage_key for one in waits}
    if stops:
        await connection.execute(statements.STOP_WAITING, *_arrays(stops))
    if waits:
        rows = ((*one.usage_key, one.state.original.work.occur_time, one.state.usage.work.model) for one in waits)
        await connection.execute(statements.WAIT, *_columns(rows))


def charges_of(correction: Correction) -> list[Charge]:
    """Return what billing is asked for."""
    usage = _usage_of(correction)
    return [
        Charge(
            correction.organization_id,
            one.operation_id,
            DEBIT if one.movement.reverses_operation_id is None else REVERSAL,
            format_amount(one.movement.amount),
            one.movement.currency_code,
            usage.work.project_id,
            usage.work.model,
            None,
            usage.work.user_id,
            one.movement.reverses_operation_id,
            correction.usage_operation_id,
        )
        for one in correction.charges
    ]


async def find_corrections(connection: RawConnection, keys: Collection[Key]) -> dict[Key, Correction]:
    """Return corrections by organization and operation id."""
    found = await _whole(connection, await connection.fetch(statements.CORRECTIONS, *_arrays(keys)))
    return {(one.organization_id, one.operation_id): one for one in found}


async def corrections_of_usage(
    connection: RawConnection, organization_id: str, usage_id: str, *, before: int | None, limit: int
) -> list[Correction]:
    """Return the latest corrections of a usage, before the one of a number if one is given."""
    rows = await connection.fetch(statements.OF_USAGE, organization_id, usage_id, before, limit)
    return await _whole(connection, rows)


async def corrections_of_organization(
    connection: RawConnection, organization_id: str, *, before: tuple[datetime, str] | None, limit: int
) -> list[Correction]:
    """Return the latest corrections of an organization, before the one of a time and operation id."""
    rows = await connection.fetch(statements.OF_ORGANIZATION, organization_id, *(before or (None, None)), limit)
    return await _whole(connection, rows)


async def find_marks(connection: RawConnection, usages: Sequence[Recorded]) -> dict[str, Mark]:
    """Return what corrections have made of usages, by usage id; usage without any is left out."""
    keys = [(one.work.organization_id, one.usage_id) for one in usages]
    marks = {row[0]: Mark(row[1], row[2]) for row in await connection.fetch(statements.MARKS, *_arrays(keys))}
    unpriced = [one for one in usages if one.settlement == PENDING_PRICE and one.usage_id in marks]
    if unpriced:
        for usage in await _no_longer_waiting(connection, unpriced):
            marks[usage.usage_id] = marks[usage.usage_id]._replace(now=usage)
    return marks


async def _no_longer_waiting(connection: RawConnection, usages: Sequence[Recorded]) -> list[Recorded]:
    """Return what corrected usages are, of those that had no price and do not wait for one, with their settlement."""
    states = await find_states(connection, {(one.work.organization_id, one.work.operation_id) for one in usages})
    originals = {(key[0], state.original.usage_id): state.original for key, state in states.items()}
    sources = await find_sources(connection, originals)
    reasons = {(row[0], row[3]): row[8] for row in await connection.fetch(statements.CHARGES, *_arrays(originals))}
    found: list[Recorded] = []
    for (organization_id, _), state in states.items():
        if state.voided:
            found.append(state.usage._replace(cost=None, settlement=SETTLED))
        elif state.usage.cost is not None:
            own = sources[organization_id, state.usage.usage_id]
            refused = [one for one in own if one.state == REFUSED]
            waits = any(one.state == PENDING for one in own)
            settlement = REFUSED if refused else PENDING if waits else SETTLED
            reason = reasons.get((organization_id, refused[0].operation_id), "") if refused else ""
            found.append(state.usage._replace(settlement=settlement, refusal_reason=reason))
    return found


async def next_waiting(connection: RawConnection, *, after: Key, limit: int) -> list[tuple[str, str, str]]:
    """Return the organization, usage id and operation id of corrected usage that waits for a price."""
    return [(row[0], row[1], row[2]) for row in await connection.fetch(statements.WAITING, *after, limit)]


async def next_pending(
    connection: RawConnection, *, after: Key, limit: int, until: str, model: str | None
) -> list[tuple[str, str, str | None]]:
    """Return the organization and usage id of usage that waits for a price, and its operation id if it is wanted.

    `until` is the last organization that is looked at. Usage of another model than `model` is not wanted.
    """
    rows = await connection.fetch(statements.PENDING, *after, limit, until, model)
    return [(row[0], row[1], row[2]) for row in rows]


async def _whole(connection: RawConnection, rows: Sequence[asyncpg.Record]) -> list[Correction]:
    """Return corrections with the lines and charges of each."""
    usages = {(row[0], row[5]) for row in rows}
    if not usages:
        return []
    lines: dict[tuple[str, int, bool], Recorded] = {}
    for line in await connection.fetch(statements.LINES, *_arrays(usages)):
        usage = recorded_of(line)
        lines[usage.usage_id, line["number"], line["added"]] = usage
    charges: defaultdict[tuple[str, int], list[CorrectionCharge]] = defaultdict(list)
    for _, usage_id, number, operation_id, *movement, state, reason in await connection.fetch(
        statements.CHARGES, *_arrays(usages)
    ):
        charges[usage_id, number].append(CorrectionCharge(operation_id, Movement(*movement), state, reason))
    return [
        Correction._make(
            (
                *(*row[:3], CorrectionKind(row[3]), *row[4:]),
                *(lines.get((row[5], row[6], added)) for added in (False, True)),
                charges[row[5], row[6]],
            )
        )
        for row in rows
    ]


def _usage_of(correction: Correction) -> Recorded:
    usage = correction.after or correction.before
    assert usage is not None, "a correction takes something out of the sums, or puts something into them"
    return usage


def _line(usage: Recorded, counted: Counted) -> Recorded:
    counts = Counts(tuple(counted), tuple(counted.values()), NOTHING_RESERVED, {}) if counted else None
    return usage._replace(counts=counts)


def _counted(counters: Sequence[str] | None, amounts: Sequence[Decimal] | None) -> dict[str, Decimal]:
    return dict(zip(counters or (), amounts or (), strict=True))


def _arrays(keys: Iterable[Key]) -> tuple[list[str], list[str]]:
    listed = list(keys)
    return [key[0] for key in listed], [key[1] for key in listed]


def _columns(rows: Iterable[Sequence[object]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]
