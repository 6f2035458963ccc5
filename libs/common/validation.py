"""Requests against the rules written in their protos (protovalidate), and against what those cannot say."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeAlias

import protovalidate
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.timestamps import parse_time
from libs.common.violation_messages import describe

Reader: TypeAlias = Callable[..., object]
"""Reads a request and raises InvalidArgument for what annotations cannot check, such as an amount below zero."""

_validator = protovalidate.Validator()
_FIELD_MAX: Final = 80
_DESCRIPTION_MAX: Final = 160


def check(request: Message, read: Reader | None = None) -> None:
    """Raise InvalidArgument naming every field that breaks its rule, once.

    A request that breaks a rule of its annotations never gets to its handler. So that its caller learns of every
    mistake at once, `read` is then asked for what it finds. A request that keeps to the annotations is not read here:
    its handler does so.
    """
    broken = _validator.collect_violations(request)
    if broken:
        violations = _once_per_field(map(_field_violation, broken))
        raise InvalidArgument(_once_per_field([*violations, *_found_beyond(request, read, violations)]))


def _found_beyond(request: Message, read: Reader | None, known: Sequence[FieldViolation]) -> list[FieldViolation]:
    """Return bad times and what the reader finds, except in fields that are known to be wrong and in parts of them."""
    found = list(_bad_times(request))
    try:
        if read is not None:
            read(request)
    except InvalidArgument as refusal:
        found += refusal.violations
    except Exception:  # noqa: BLE001, S110 -- readers rely on the annotations, which this request breaks.
        pass
    parts = tuple(f"{violation.field}{separator}" for violation in known for separator in ".[")
    return [violation for violation in found if not violation.field.startswith(parts)]


def _bad_times(message: Message, path: str = "") -> Iterator[FieldViolation]:
    """Yield every time in a message that no service takes."""
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        each = enumerate(value) if field.is_repeated else [(None, value)]
        for index, part in each:
            place = path + field.name + ("" if index is None else f"[{index}]")
            if isinstance(part, Timestamp):
                violations: list[FieldViolation] = []
                parse_time(place, part, violations)
                yield from violations
            else:
                yield from _bad_times(part, f"{place}.")


def _once_per_field(violations: Iterable[FieldViolation]) -> list[FieldViolation]:
    first: dict[str, FieldViolation] = {}
    for violation in violations:
        first.setdefault(violation.field, violation)
    return list(first.values())


def _field_violation(violation: protovalidate.Violation) -> FieldViolation:
    field = violation.proto.field
    elements = field.elements if field else ()
    path = ".".join(element.field_name + _subscript(element) for element in elements)
    description = f"the key {describe(violation)}" if violation.proto.for_key else describe(violation)
    return FieldViolation(_cut(path, _FIELD_MAX), _cut(description, _DESCRIPTION_MAX))


def _subscript(element: protovalidate.FieldPathElementPb) -> str:
    subscript = element.subscript
    return "" if subscript is None else f"[{_cut(str(subscript.value), _FIELD_MAX)}]"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "…"
