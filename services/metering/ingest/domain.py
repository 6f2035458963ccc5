"""What events of a type mean, and the rules for names: paths in their data, and operation ids."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from urllib.parse import quote

from libs.common.audit.chain import Changed, differences
from libs.common.errors import FieldViolation

MAPPINGS_MAX: Final = 1_000
"""The most mappings: every process keeps them all in memory."""
OPERATION_ID_MAX: Final = 255
SUBJECT_LABEL: Final = "subject"


class Subject(StrEnum):
    """What the subject of an event names."""

    ORGANIZATION = "ORGANIZATION"
    PROJECT = "PROJECT"
    USER = "USER"
    API_KEY = "API_KEY"
    SUBSCRIPTION = "SUBSCRIPTION"
    LABEL = "LABEL"


SUBJECT_FIELDS: Final[Mapping[Subject, str]] = {
    Subject.ORGANIZATION: "organization_id",
    Subject.PROJECT: "project_id",
    Subject.USER: "user_id",
    Subject.API_KEY: "api_key_id",
    Subject.SUBSCRIPTION: "subscription_id",
}
"""The field of a usage that each is, but for the label."""


@dataclass(frozen=True, slots=True)
class QuantityRule:
    """Where the data of an event has the quantity of a unit, or the quantity of each event."""

    unit: str
    path: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class EventMapping:
    """What events of a type mean. A path such as `$.tokens.input` names a place in their data."""

    event_type: str
    model: str
    model_path: str
    quantities: tuple[QuantityRule, ...]
    subject: Subject
    field_paths: Mapping[str, str]
    label_paths: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """Return the mapping without its type, as it is stored."""
        return {
            "model": self.model,
            "model_path": self.model_path,
            "quantities": [[one.unit, one.path, one.value] for one in self.quantities],
            "subject": self.subject.value,
            "field_paths": dict(self.field_paths),
            "label_paths": dict(self.label_paths),
        }


@dataclass(frozen=True, slots=True)
class Entry:
    """A mapping as it is stored."""

    mapping: EventMapping
    create_time: datetime
    update_time: datetime


def from_json(event_type: str, stored: dict[str, object]) -> EventMapping:
    """Return a mapping as `to_json` stored it."""
    quantities, fields, labels = stored["quantities"], stored["field_paths"], stored["label_paths"]
    assert isinstance(quantities, list)
    assert isinstance(fields, dict)
    assert isinstance(labels, dict)
    return EventMapping(
        event_type,
        str(stored["model"]),
        str(stored["model_path"]),
        tuple(QuantityRule(*one) for one in quantities),
        Subject(str(stored["subject"])),
        fields,
        labels,
    )


def flaws_of(mapping: EventMapping, known_units: Mapping[str, bool]) -> list[FieldViolation]:
    """Return what is wrong with a mapping beyond its annotations; `known_units` says of each unit if it is archived."""
    flaws: list[FieldViolation] = []
    if bool(mapping.model) == bool(mapping.model_path):
        flaws.append(FieldViolation("mapping.model", "exactly one of model and model_path must be given"))
    units: set[str] = set()
    for index, one in enumerate(mapping.quantities):
        field = f"mapping.quantities[{index}]"
        if bool(one.path) == bool(one.value):
            flaws.append(FieldViolation(field, "exactly one of path and value must be given"))
        if one.unit in units:
            flaws.append(FieldViolation(f"{field}.unit", "is listed twice"))
        elif one.unit not in known_units:
            flaws.append(FieldViolation(f"{field}.unit", "is not a unit of the catalogue"))
        elif known_units[one.unit]:
            flaws.append(FieldViolation(f"{field}.unit", "is an archived unit"))
        units.add(one.unit)
    named = SUBJECT_FIELDS.get(mapping.subject)
    if named in mapping.field_paths:
        flaws.append(FieldViolation(f"mapping.field_paths[{named}]", "is what subject names already"))
    if mapping.subject is Subject.LABEL and SUBJECT_LABEL in mapping.label_paths:
        flaws.append(FieldViolation(f"mapping.label_paths[{SUBJECT_LABEL}]", "is what subject names already"))
    if mapping.subject is Subject.LABEL and len(mapping.label_paths) == 16:
        flaws.append(FieldViolation("mapping.label_paths", "must have at most 15 labels beside subject"))
    return flaws


def changes_of(before: EventMapping | None, after: EventMapping | None) -> tuple[Changed, ...]:
    """Return the changed fields of a mapping for the audit trail."""
    return differences(*({} if one is None else _texts(one) for one in (before, after)))


def _texts(mapping: EventMapping) -> dict[str, str | None]:
    quantities = ", ".join(f"{one.unit}: {one.path or one.value}" for one in mapping.quantities)
    paths = {**mapping.field_paths, **{f"labels[{key}]": path for key, path in mapping.label_paths.items()}}
    return {
        "model": mapping.model or mapping.model_path,
        "quantities": quantities,
        "subject": mapping.subject.value,
        "paths": ", ".join(f"{name}: {path}" for name, path in sorted(paths.items())),
    }


def operation_id_of(source: str, event_id: str) -> str:
    """Return the operation id of an event. Two events have the same one only if they have the same source and id."""
    readable = f"ce:{quote(source)}:{quote(event_id, safe='/')}"
    if len(readable) <= OPERATION_ID_MAX:
        return readable
    return f"ce-sha256:{hashlib.sha256(readable.encode()).hexdigest()}"


def at(data: object, path: str) -> object:
    """Return what data has at a path; None where it has nothing there, as where it has null."""
    found = data
    for name in path.split(".")[1:]:
        found = found.get(name) if isinstance(found, dict) else None
    return found
