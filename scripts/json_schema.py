"""JSON schemas of proto messages, as their JSON mapping writes them, with the rules that requests are checked by.

A rule that has no form here raises: no rule is left out unseen. What JSON Schema cannot say is said in the description.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import TypeAlias

import protovalidate
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tollhouse.common.v1 import text_pb2

Json: TypeAlias = "bool | int | str | Sequence[Json] | Mapping[str, Json]"
Schema: TypeAlias = dict[str, Json]
FieldPath = tuple[str, ...]
"""The names of a field and of those it is in, from the message down, as in a path template."""

_REFERENCE = "#/components/schemas/"
_MATCHES = re.compile(r"^this\.matches\('(.*)'\)$", re.DOTALL)
_INT32_BOUND = 2**31
_INT64_DIGITS = 19
_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$"},
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.Struct": {"type": "object"},
}
STATUS: Schema = {
    "type": "object",
    "description": "Why a call failed: `google.rpc.Status` as JSON.",
    "properties": {
        "code": {
            "type": "integer",
            "format": "int32",
            "description": "The code of gRPC, such as 3 for INVALID_ARGUMENT.",
        },
        "message": {"type": "string", "description": "What is wrong, for people."},
        "details": {
            "type": "array",
            "description": "`google.rpc.ErrorInfo` has the reason, for programs, and the facts; `BadRequest` names"
            " every invalid field; `RetryInfo` says after how long to try again.",
            "items": {"$ref": f"{_REFERENCE}ErrorDetail"},
        },
    },
    "required": ["code", "message"],
}
ERROR_DETAIL: Schema = {
    "type": "object",
    "description": "One detail of an error; which one is in its `@type`.",
    "properties": {
        "@type": {"type": "string", "description": "Such as `type.googleapis.com/google.rpc.ErrorInfo`."},
        "reason": {"type": "string", "description": "ErrorInfo: the reason, for programs."},
        "domain": {"type": "string", "description": "ErrorInfo: `tollhouse`."},
        "metadata": {
            "type": "object",
            "description": "ErrorInfo: the facts behind the reason.",
            "additionalProperties": {"type": "string"},
        },
        "fieldViolations": {
            "type": "array",
            "description": "BadRequest: the invalid fields.",
            "items": {
                "type": "object",
                "properties": {
                    "field": {"type": "string", "description": "The path of the field."},
                    "description": {"type": "string", "description": "What is wrong with it."},
                    "reason": {"type": "string", "description": "The rule that it breaks."},
                },
            },
        },
        "retryDelay": {"type": "string", "description": "RetryInfo: after how long to try again, such as `1.5s`."},
    },
    "required": ["@type"],
}


class Schemas:
    """The schemas of messages and enums, each made when it is first referred to."""

    def __init__(self, comments: Mapping[str, str], taken: Iterable[Descriptor]) -> None:
        """Prepare the schemas.

        Args:
            comments: What the protos say about each message, field, enum and value, by full name.
            taken: The messages that are requests. Unknown members of these, and of what they hold, are refused.
        """
        self.made: dict[str, Schema] = {"Status": STATUS, "ErrorDetail": ERROR_DETAIL}
        self._comments = comments
        self._taken: set[str] = set()
        for message in taken:
            self._take(message)

    def _take(self, message: Descriptor) -> None:
        if message.full_name not in self._taken and not message.full_name.startswith("google."):
            self._taken.add(message.full_name)
            for field in message.fields:
                if field.message_type:
                    self._take(field.message_type)

    def of_message(self, message: Descriptor) -> Schema:
        """Return a reference to a message's schema."""
        if message.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[message.full_name])
        if message.full_name == "google.rpc.Status":
            return {"$ref": f"{_REFERENCE}Status"}
        if not message.full_name.startswith("tollhouse."):
            raise ValueError(f"{message.full_name} has no JSON schema here")
        name = short_name(message.full_name)
        if name not in self.made:
            self.made[name] = {}  # A message may hold itself.
            self.made[name] = self.members(message, frozenset())
        return {"$ref": _REFERENCE + name}

    def members(self, message: Descriptor, without: frozenset[FieldPath]) -> Schema:
        """Return a message's schema, less the fields that are given elsewhere, such as in the path."""
        fields = [field for field in message.fields if (field.name,) not in without]
        fields = [field for field in fields if not _is_settled(field, without)]
        schema: Schema = {"type": "object"}
        if text := self._comments.get(message.full_name):
            schema["description"] = text
        schema["properties"] = {field.json_name: self._member(field, without) for field in fields}
        if message.full_name in self._taken:
            schema["additionalProperties"] = False
            needed = required_fields(message)
            if required := [field.json_name for field in fields if field.name in needed]:
                schema["required"] = required
        return schema | _exclusive(message, fields)

    def of_field(self, field: FieldDescriptor) -> Schema:
        """Return a field's schema with its rules and its comment."""
        rules = field.GetOptions().Extensions[validate_pb2.field]
        schema = self._unlabelled(field, rules)
        texts = [self._comments.get(field.full_name, ""), str(schema.pop("description", ""))]
        texts += [f"It {rule.message}." for rule in rules.cel]
        if text := "\n\n".join(text for text in texts if text):
            schema["description"] = text
        if field.GetOptions().debug_redact and not field.is_repeated:
            schema["format"] = "password"
        if field.GetOptions().deprecated:
            schema["deprecated"] = True
        return schema

    def _member(self, field: FieldDescriptor, without: frozenset[FieldPath]) -> Schema:
        within = frozenset(path[1:] for path in without if path[0] == field.name and len(path) > 1)
        if not within or field.message_type is None:
            return self.of_field(field)
        schema = self.members(field.message_type, within)
        return schema | {"description": self._comments.get(field.full_name, "")}

    def _unlabelled(self, field: FieldDescriptor, rules: validate_pb2.FieldRules) -> Schema:
        if field.message_type and field.message_type.GetOptions().map_entry:
            key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
            schema: Schema = {"type": "object", "additionalProperties": self._value(value, rules.map.values)}
            names = self._value(key, rules.map.keys)
            if len(names) > 1:
                schema["propertyNames"] = names
            return schema | _ruled(field, rules.map, _MAP)
        if field.is_repeated:
            items: Schema = {"type": "array", "items": self._value(field, rules.repeated.items)}
            return items | _ruled(field, rules.repeated, _REPEATED)
        return self._value(field, rules)

    def _value(self, field: FieldDescriptor, rules: validate_pb2.FieldRules) -> Schema:
        kind = rules.WhichOneof("type")
        typed = getattr(rules, kind) if kind else None
        if field.enum_type:
            return self._of_enum(field.enum_type) | _enum_rules(field, typed)
        if field.message_type:
            return self.of_message(field.message_type) | (_ruled(field, typed, _DURATION) if typed else {})
        schema = _scalar(field, typed)
        schema |= _matching(_MATCHES.match(rule.expression) for rule in rules.cel) if rules.cel else {}
        return schema

    def _of_enum(self, enum: EnumDescriptor) -> Schema:
        name = short_name(enum.full_name)
        if name not in self.made:
            prefix = enum.full_name.rpartition(".")[0]
            values = [(value.name, self._comments.get(f"{prefix}.{value.name}", "")) for value in enum.values]
            listed = "\n".join(f"- `{value}`: {' '.join(text.split())}" for value, text in values)
            self.made[name] = {
                "type": "string",
                "description": f"{self._comments.get(enum.full_name, '')}\n\n{listed}",
                "enum": [value for value, _ in values],
            }
        return {"$ref": _REFERENCE + name}


def short_name(full_name: str) -> str:
    """Return the name of an element in the document: `metering.v1.Principal` for `tollhouse.metering.v1.Principal`."""
    return full_name.removeprefix("tollhouse.")


@cache
def required_fields(message: Descriptor) -> frozenset[str]:
    """Return the fields without which a message is refused: those at fault when it is empty."""
    found = [violation.proto.field for violation in protovalidate.collect_violations(GetMessageClass(message)())]
    return frozenset(path.elements[0].field_name for path in found if path is not None)


def real_oneofs(message: Descriptor) -> Iterator[Sequence[FieldDescriptor]]:
    """Yield the members of each oneof; those that stand for a field marked `optional` are none."""
    yield from (oneof.fields for oneof in message.oneofs if not oneof.name.startswith("_"))


def _is_settled(field: FieldDescriptor, without: frozenset[FieldPath]) -> bool:
    """Tell whether another member of the field's oneof is given elsewhere, so that this one cannot be."""
    members = [] if field.containing_oneof is None else field.containing_oneof.fields
    return any((member.name,) in without for member in members)


def _exclusive(message: Descriptor, present: Sequence[FieldDescriptor]) -> Schema:
    """Return what a message's oneofs demand."""
    demands: list[Schema] = []
    for members in real_oneofs(message):
        names = [member.json_name for member in members if member in present]
        oneof = members[0].containing_oneof
        if oneof is None or len(names) < 2:
            continue
        if oneof.GetOptions().Extensions[validate_pb2.oneof].required:
            demands.append({"oneOf": [{"title": name, "required": [name]} for name in names]})
        else:
            demands.append({"not": {"anyOf": [{"required": list(pair)} for pair in combinations(names, 2)]}})
    if len(demands) < 2:
        return demands[0] if demands else {}
    return {"allOf": demands}


def _scalar(field: FieldDescriptor, rules: Message | None) -> Schema:
    types: dict[int, Callable[[], Schema]] = {
        FieldDescriptor.TYPE_STRING: lambda: {"type": "string"} | _string_rules(field, rules),
        FieldDescriptor.TYPE_BOOL: lambda: {"type": "boolean"} | _ruled(field, rules, _BOOL),
        FieldDescriptor.TYPE_INT32: lambda: _int32(field, rules),
        FieldDescriptor.TYPE_INT64: lambda: _int64(field, rules),
        FieldDescriptor.TYPE_SFIXED64: lambda: _int64(field, rules),
        FieldDescriptor.TYPE_BYTES: lambda: (
            {"type": "string", "format": "byte", "contentEncoding": "base64"} | _ruled(field, rules, _BYTES)
        ),
    }
    if field.type not in types:
        raise ValueError(f"{field.full_name}: fields of type {field.type} have no JSON schema here")
    return types[field.type]()


def _int32(field: FieldDescriptor, rules: Message | None) -> Schema:
    bounds: Schema = {"minimum": -_INT32_BOUND, "maximum": _INT32_BOUND - 1}
    return {"type": "integer", "format": "int32"} | bounds | _ruled(field, rules, _INT32)


def _int64(field: FieldDescriptor, rules: Message | None) -> Schema:
    """Return the schema of a number that JSON has as text, since it may be larger than JSON's numbers are exact."""
    schema = _ruled(field, rules, _INT64)
    least, most = schema.pop("least", None), schema.pop("most", None)
    sign = "" if isinstance(least, int) and least >= 0 else "-?"
    digits = len(str(most)) if isinstance(most, int) and sign == "" else _INT64_DIGITS
    said = [
        f"at least {least:,}" if isinstance(least, int) else "",
        f"at most {most:,}" if isinstance(most, int) else "",
    ]
    text = " and ".join(part for part in said if part)
    described: Schema = {"description": f"{text[0].upper()}{text[1:]}."} if text else {}
    pattern: Schema = {} if "enum" in schema else {"pattern": f"^{sign}[0-9]{{1,{digits}}}$"}
    return {"type": "string", "format": "int64"} | pattern | described | schema


def _string_rules(field: FieldDescriptor, rules: Message | None) -> Schema:
    if rules is None:
        return {}
    named: Schema = {}
    expressions = []
    for rule, value in rules.ListFields():
        if rule.is_extension:
            (defined,) = rule.GetOptions().Extensions[validate_pb2.predefined].cel
            expressions.append(defined.expression)
        elif rule.name == "pattern":
            expressions.append(f"this.matches('{value}')")
        else:
            named |= _one_rule(field, rule.name, value, _STRING)
    clean = text_pb2.DESCRIPTOR.extensions_by_name["clean_text"].GetOptions().Extensions[validate_pb2.predefined].cel[0]
    matched = [_MATCHES.match(expression) for expression in expressions if expression != clean.expression]
    if clean.expression in expressions and not matched:
        return named | {"pattern": "^[^\\x00]*$"}
    return named | _matching(matched)


def _matching(found: Iterable[re.Match[str] | None]) -> Schema:
    """Return the patterns of rules, of which each must be one."""
    patterns: list[Json] = []
    for match in found:
        if match is None:
            raise ValueError("A rule of a text is no pattern, and has no JSON schema here")
        patterns.append(match[1].replace("\\\\", "\\"))
    if len(patterns) == 1:
        return {"pattern": patterns[0]}
    return {"allOf": [{"pattern": pattern} for pattern in patterns]} if patterns else {}


def _enum_rules(field: FieldDescriptor, rules: Message | None) -> Schema:
    schema = _ruled(field, rules, _ENUM)
    if isinstance(refused := schema.pop("refused", None), tuple) and field.enum_type is not None:
        schema["not"] = {"enum": [field.enum_type.values_by_number[number].name for number in refused]}
    return schema


Rule: TypeAlias = Callable[[object], Schema]


def _ruled(field: FieldDescriptor, rules: Message | None, known: Mapping[str, Rule]) -> Schema:
    schema: Schema = {}
    for rule, value in rules.ListFields() if rules is not None else ():
        added = _one_rule(field, rule.name, value, known)
        if "description" in schema and "description" in added:
            added["description"] = f"{schema['description']} {added['description']}"
        schema |= added
    return schema


def _one_rule(field: FieldDescriptor, name: str, value: object, known: Mapping[str, Rule]) -> Schema:
    if name not in known:
        raise ValueError(f"{field.full_name}: the rule {name} has no JSON schema here")
    return known[name](value)


def _as(name: str) -> Rule:
    def rule(value: object) -> Schema:
        assert isinstance(value, bool | int | str)
        return {name: value}

    return rule


def _nothing(_: object) -> Schema:
    """What another part of the schema says already."""
    return {}


def _less_than(value: object) -> Schema:
    assert isinstance(value, int)
    return {"maximum": value - 1}


def _base64_length(name: str) -> Rule:
    def rule(value: object) -> Schema:
        assert isinstance(value, int)
        return {name: math.ceil(value / 3) * 4 if name == "maxLength" else math.ceil(value * 4 / 3)}

    return rule


def _texts(values: object) -> Schema:
    assert isinstance(values, Iterable)
    return {"enum": [str(value) for value in values]}


def _refused(values: object) -> Schema:
    assert isinstance(values, Iterable)
    return {"refused": tuple(values)}


def _seconds(words: str) -> Rule:
    def rule(value: object) -> Schema:
        assert isinstance(value, Duration)
        return {"description": f"{words} {value.ToJsonString()}."}

    return rule


_STRING: Mapping[str, Rule] = {
    "min_len": _as("minLength"),
    "max_len": _as("maxLength"),
    "uuid": lambda _: {"format": "uuid"},
    "ip": lambda _: {"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
    "in": _texts,
}
_BYTES: Mapping[str, Rule] = {"min_len": _base64_length("minLength"), "max_len": _base64_length("maxLength")}
_BOOL: Mapping[str, Rule] = {"const": _as("const")}
_INT32: Mapping[str, Rule] = {"gte": _as("minimum"), "lte": _as("maximum"), "lt": _less_than}
_INT64: Mapping[str, Rule] = {"gte": _as("least"), "lte": _as("most"), "in": _texts}
_ENUM: Mapping[str, Rule] = {"defined_only": _nothing, "not_in": _refused}
_DURATION: Mapping[str, Rule] = {
    "gt": _seconds("More than"),
    "gte": _seconds("At least"),
    "lte": _seconds("At most"),
}
# The rules of keys, values and items are those of the schemas of these.
_MAP: Mapping[str, Rule] = {"max_pairs": _as("maxProperties"), "keys": _nothing, "values": _nothing}
_REPEATED: Mapping[str, Rule] = {
    "min_items": _as("minItems"),
    "max_items": _as("maxItems"),
    "unique": _as("uniqueItems"),
    "items": _nothing,
}
