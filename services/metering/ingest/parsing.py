"""An event and the mapping of its type become a request to record usage; messages of mappings become mappings."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.errors import FieldViolation, InvalidArgument
from services.metering.ingest.domain import (
    SUBJECT_FIELDS,
    SUBJECT_LABEL,
    EventMapping,
    QuantityRule,
    Subject,
    at,
    operation_id_of,
)
from services.metering.ingest.events import Event, Number, shown
from services.metering.model.units import CLASS_OF_UNIT, QUANTITY_MAX
from services.metering.usage_errors import EventTypeUnknown
from tollhouse.metering.v1 import ingest_pb2 as pb
from tollhouse.metering.v1 import usage_pb2

_TEXTS: Final = ("specversion", "id", "source", "type", "subject")
_NUMBER: Final = re.compile(r"-?[0-9]{1,32}(\.[0-9]{1,32})?([eE][+-]?[0-9]{1,3})?")
_NUMBER_MAX: Final = 64
_JSON: Final = "application/json"
_WHOLE: Final = re.compile(r"-?[0-9]{1,18}")
_WHOLE_FIELDS: Final = ("status_code", "latency_ms", "items")
_BITS: Final = {"status_code": 31}
_ENVIRONMENTS: Final = {"LIVE": usage_pb2.ENVIRONMENT_LIVE, "TEST": usage_pb2.ENVIRONMENT_TEST}
_SUBJECT: Final = "EVENT_SUBJECT_"


def read_mapping(message: pb.EventMapping) -> EventMapping:
    """Return the mapping of a message."""
    return EventMapping(
        message.event_type,
        message.model,
        message.model_path,
        tuple(QuantityRule(one.unit, one.path, one.value) for one in message.quantities),
        Subject(pb.EventSubject.Name(message.subject).removeprefix(_SUBJECT)),
        dict(message.field_paths),
        dict(message.label_paths),
    )


def usage_of(
    event: Event, mappings: Mapping[str, EventMapping], own_organization_id: str
) -> usage_pb2.RecordUsageRequest:
    """Return the usage that an event tells of; `own_organization_id` is the only one that the caller reaches, if any.

    Raises:
        InvalidArgument: the event is not as it should be; every attribute and path at fault is named.
        EventTypeUnknown: there is no mapping of its type.
    """
    flaws = list(event.flaws)
    value = event.value
    if not isinstance(value, dict):
        raise InvalidArgument([FieldViolation("", "an event must be an object")])
    request = usage_pb2.RecordUsageRequest()
    texts = {name: _attribute(name, value, flaws) for name in _TEXTS}
    _read_envelope(value, texts["specversion"], request, flaws)
    mapping = mappings.get(texts["type"])
    if mapping is None:
        if flaws:
            raise InvalidArgument(flaws)
        raise EventTypeUnknown(event_type=shown(texts["type"]))
    request.operation_id = operation_id_of(texts["source"], texts["id"])
    data = value.get("data")
    if data is not None and not isinstance(data, dict):
        raise InvalidArgument([*flaws, FieldViolation("data", "must be an object")])
    _read_quantities(data, mapping, request, flaws)
    _read_fields(data, mapping, request, flaws)
    named = SUBJECT_FIELDS.get(mapping.subject)
    if named is None:
        request.labels[SUBJECT_LABEL] = texts["subject"]
    else:
        setattr(request, named, texts["subject"])
    if not request.organization_id:
        request.organization_id = own_organization_id
    if not (request.organization_id or flaws):
        path = mapping.field_paths.get("organization_id")
        rule = "is missing: nothing else names the organization" if path else "does not name the organization"
        flaws.append(FieldViolation(_field(path) if path else "subject", rule))
    if flaws:
        raise InvalidArgument(flaws)
    return request


def _attribute(name: str, value: dict[str, object], flaws: list[FieldViolation]) -> str:
    text = value.get(name)
    if not isinstance(text, str) or isinstance(text, Number) or not text:
        flaws.append(FieldViolation(name, "must be a text that is not empty"))
        return ""
    return _storable(name, text, flaws)


def _storable(name: str, text: str, flaws: list[FieldViolation]) -> str:
    """Return a text that can be stored and sent; a lone surrogate of an escape and U+0000 can be neither."""
    if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
        flaws.append(FieldViolation(name, "must be without U+0000 and lone surrogates"))
        return ""
    return text


def _read_envelope(
    value: dict[str, object], version: str, request: usage_pb2.RecordUsageRequest, flaws: list[FieldViolation]
) -> None:
    if version not in ("", "1.0"):
        flaws.append(FieldViolation("specversion", "must be 1.0"))
    if not _is_json(value.get("datacontenttype", _JSON)):
        flaws.append(FieldViolation("datacontenttype", "must be application/json"))
    if "data_base64" in value:
        flaws.append(FieldViolation("data_base64", "is not taken; give data as JSON"))
    time = value.get("time")
    if time is None:
        return
    try:
        if not isinstance(time, str) or isinstance(time, Number) or len(time) > _NUMBER_MAX:
            raise ValueError
        moment = Timestamp()
        moment.FromJsonString(time)
    except ValueError:
        flaws.append(FieldViolation("time", "must be an RFC 3339 time"))
    else:
        request.occur_time.CopyFrom(moment)


def _is_json(media_type: object) -> bool:
    """Tell whether a media type is that of JSON, in any case, with parameters such as a charset or without."""
    return media_type is None or (isinstance(media_type, str) and media_type.partition(";")[0].strip().lower() == _JSON)


def _read_quantities(
    data: object, mapping: EventMapping, request: usage_pb2.RecordUsageRequest, flaws: list[FieldViolation]
) -> None:
    for rule in mapping.quantities:
        text = rule.value or _decimal(at(data, rule.path), rule.path, flaws)
        token_class = CLASS_OF_UNIT.get(rule.unit)
        if token_class is None:
            request.quantities.add(unit=rule.unit, value=text)
        elif "." in text:
            flaws.append(FieldViolation(_field(rule.path), f"must be a whole number: {rule.unit} have no parts"))
        else:
            setattr(request.tokens, token_class, int(text))


def _decimal(found: object, path: str, flaws: list[FieldViolation]) -> str:
    """Return a number as a plain decimal without zeros at its end; zero where it is none, which is a flaw."""
    field = _field(path)
    if found is None:
        flaws.append(FieldViolation(field, "is missing"))
        return "0"
    if not isinstance(found, str) or not _NUMBER.fullmatch(found):
        flaws.append(FieldViolation(field, "must be a number, or a text that holds one"))
        return "0"
    number = Decimal(found)
    if not 0 <= number <= QUANTITY_MAX:
        flaws.append(FieldViolation(field, f"must be from 0 to {QUANTITY_MAX:,}"))
        return "0"
    # Written out digit by digit: arithmetic would round to 28 digits.
    plain = f"{number.copy_abs():f}"
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    if len(plain.partition(".")[2]) > 9:
        flaws.append(FieldViolation(field, "must have at most 9 fraction digits"))
        return "0"
    return plain


def _read_fields(
    data: object, mapping: EventMapping, request: usage_pb2.RecordUsageRequest, flaws: list[FieldViolation]
) -> None:
    request.model = mapping.model or _text(at(data, mapping.model_path), mapping.model_path, flaws)
    if mapping.model_path and at(data, mapping.model_path) is None:
        flaws.append(FieldViolation(_field(mapping.model_path), "is missing"))
    for name, path in mapping.field_paths.items():
        found = at(data, path)
        if found is None:
            continue
        text = _text(found, path, flaws)
        if name == "environment":
            if text not in _ENVIRONMENTS:
                flaws.append(FieldViolation(_field(path), "must be LIVE or TEST"))
            request.environment = _ENVIRONMENTS.get(text, usage_pb2.ENVIRONMENT_UNSPECIFIED)
        elif name not in _WHOLE_FIELDS:
            setattr(request, name, text)
        elif _WHOLE.fullmatch(text) and -(2**31) <= int(text) < 2 ** _BITS.get(name, 63):
            setattr(request, name, int(text))
        else:
            flaws.append(FieldViolation(_field(path), "must be a whole number"))
    for key, path in mapping.label_paths.items():
        if (found := at(data, path)) is not None:
            request.labels[key] = _text(found, path, flaws)


def _text(found: object, path: str, flaws: list[FieldViolation]) -> str:
    if isinstance(found, bool):
        return str(found).lower()
    if isinstance(found, str):
        return _storable(_field(path), found, flaws)
    if found is not None:
        flaws.append(FieldViolation(_field(path), "must be a text, a number, true or false"))
    return ""


def _field(path: str) -> str:
    return f"data{path[1:]}"
