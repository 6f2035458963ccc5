"""Requests against the rules written in their protos (protovalidate)."""

from typing import Final

import protovalidate
from google.protobuf.message import Message

from libs.common.errors import FieldViolation, InvalidArgument

_validator = protovalidate.Validator()
# A refusal travels in the metadata of the answer, of which clients take 8 KiB.
_VIOLATIONS_MAX: Final = 16
_TEXT_MAX: Final = 80


def check(request: Message) -> None:
    """Raise InvalidArgument naming every field that breaks its rule."""
    violations = _validator.collect_violations(request)
    if violations:
        shown = [_field_violation(violation) for violation in violations[:_VIOLATIONS_MAX]]
        if len(violations) > _VIOLATIONS_MAX:
            shown.append(FieldViolation("", f"and {len(violations) - _VIOLATIONS_MAX} more"))
        raise InvalidArgument(shown)


def _field_violation(violation: protovalidate.Violation) -> FieldViolation:
    field = violation.proto.field
    elements = field.elements if field else ()
    path = ".".join(element.field_name + _subscript(element) for element in elements)
    return FieldViolation(_cut(path), _cut(violation.proto.message or violation.proto.rule_id))


def _subscript(element: protovalidate.FieldPathElementPb) -> str:
    subscript = element.subscript
    return "" if subscript is None else f"[{_cut(str(subscript.value))}]"


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_MAX else text[:_TEXT_MAX] + "…"
