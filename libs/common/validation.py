"""Requests against the rules written in their protos (protovalidate)."""

import protovalidate
from google.protobuf.message import Message

from libs.common.errors import FieldViolation, InvalidArgument

_validator = protovalidate.Validator()


def check(request: Message) -> None:
    """Raise InvalidArgument naming every field that breaks its rule."""
    violations = _validator.collect_violations(request)
    if violations:
        raise InvalidArgument([_field_violation(violation) for violation in violations])


def _field_violation(violation: protovalidate.Violation) -> FieldViolation:
    field = violation.proto.field
    elements = field.elements if field else ()
    path = ".".join(element.field_name + _subscript(element) for element in elements)
    return FieldViolation(path, violation.proto.message or violation.proto.rule_id)


def _subscript(element: protovalidate.FieldPathElementPb) -> str:
    subscript = element.subscript
    return "" if subscript is None else f"[{subscript.value}]"
