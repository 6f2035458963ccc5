"""Units as the catalogue keeps them, and the rules for changing them."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from libs.common.audit.chain import Changed, differences
from libs.common.errors import FieldViolation
from services.metering.model.domain import REQUESTS
from services.metering.model.units import THOUSANDTHS, TOKEN_CLASS_UNITS, Kind, Unit, quantity_text

UNITS_MAX: Final = 1_000
"""The most units that there can be, archived ones included: every process keeps them all in memory."""

NEEDED: Final = frozenset({*TOKEN_CLASS_UNITS.values(), REQUESTS})
"""The units that usage has without naming them. They cannot be archived."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A unit in the catalogue."""

    unit: Unit
    revision: int
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Changes:
    """New values of a unit's fields; None leaves a field as it is."""

    name: str | None = None
    description: str | None = None
    archived: bool | None = None

    def applied_to(self, unit: Unit) -> Unit:
        return replace(
            unit,
            name=unit.name if self.name is None else self.name,
            description=unit.description if self.description is None else self.description,
            archived=unit.archived if self.archived is None else self.archived,
        )


def flaws_of_new(
    name: str, kind: Kind | None, step_thousandths: int, *, counts_toward_context: bool
) -> list[FieldViolation]:
    """Return what is wrong with the fields of a unit that is to be added. An empty name is replaced, so it is good."""
    flaws = [] if not name else flaws_of_name(name)
    if kind is None:
        flaws.append(FieldViolation("kind", "must be given"))
    if kind is Kind.TOKEN and step_thousandths != THOUSANDTHS:
        flaws.append(FieldViolation("step", "must be 1 for tokens"))
    if kind not in (None, Kind.TOKEN) and counts_toward_context:
        flaws.append(FieldViolation("counts_toward_context", "can be true for tokens only"))
    return flaws


def flaws_of_name(name: str) -> list[FieldViolation]:
    """Return what is wrong with a name: it is empty, or consists of spaces."""
    return [] if name.strip() else [FieldViolation("name", "must not be blank")]


def unit_changes(before: Unit | None, after: Unit) -> tuple[Changed, ...]:
    """Return the changed fields of a unit for the audit trail. Of the description only the name is kept."""
    changes = differences({} if before is None else _plain_fields(before), _plain_fields(after))
    is_described = (before.description if before else "") != after.description
    return (*changes, Changed("description")) if is_described else changes


def _plain_fields(unit: Unit) -> dict[str, str | None]:
    return {
        "name": unit.name,
        "kind": unit.kind.value,
        "counts_toward_context": str(unit.counts_toward_context).lower(),
        "step": quantity_text(unit.step_thousandths),
        "archived": str(unit.archived).lower(),
    }
