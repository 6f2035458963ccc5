"""Valid requests of every RPC, filled in by the names of their fields."""

import itertools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from libs.common import validation
from libs.common.errors import InvalidArgument
from tests.system.authorization.rpcs import Rpc
from tests.system.authorization.targets import Target

MODEL: Final = "matrix-model"
CURRENCY: Final = "USD"
# The plan on which an experiment runs.
EXPERIMENT_ON: Final = "pro"
# The limit that each organization has.
LIMIT: Final = "matrix"
# An etag that no resource has, so that an update that is let in changes nothing.
STALE_ETAG: Final = "0"
_UPDATED: Final = ("name", "full_name", "display_name", "metadata", "value")
_serials = itertools.count(1)

# Values of fields that are not ids, by field name. Each gets a number that differs between requests.
_TEXTS: Final = {
    "currency_code": CURRENCY,
    "email": "somebody-{serial}@matrix.example",
    "etag": STALE_ETAG,
    "job_id": "019a0000-0000-7000-8000-000000000009",
    "key": "th_live_unknown",
    "lease_id": "matrix-lease-{serial}",
    "login": "nobody-{serial}@matrix.example",
    "model": MODEL,
    "model_id": MODEL,
    "name": "Matrix {serial}",
    "operation_id": "matrix-{serial}",
    "password": "matrix-{serial}",
    "plan_id": "019a0000-0000-7000-8000-000000000001",
    "request_id": "matrix-{serial}",
    "token": "th_invite_unknown",
    "unit_id": "products",
    "url": "https://matrix.example/",
    "value": "0.01",
}
_NUMBERS: Final = {"input_tokens": 1, "max_output_tokens": 1, "input": 1, "page_size": 1000, "version": 1}
_FLAGS: Final = {"validate_only": True}
# Roles with few rights. Every other enum keeps its zero value.
_ENUMS: Final = {"MemberRole": "MEMBER_ROLE_VIEWER", "ProjectMemberRole": "PROJECT_MEMBER_ROLE_MEMBER"}
# Messages that must be present, or must be filled in to have an effect.
_NESTED: Final = frozenset({"Amount", "TokenCounts", "TokenPrices", "Account"})


class NoValidRequest(Exception):
    """No valid request is known for an RPC."""


def request_for(rpc: Rpc, target: Target, own: Mapping[str, object], serial: int | None = None) -> Message:
    """Return a request about the resources of a place, with RPC-specific values for certain fields.

    Requests with the same serial number differ only in their place; without a serial number, every request differs.

    Raises:
        NoValidRequest: a required field has no known value.
    """
    request = rpc.new_request()
    # Each service has endpoints of its own.
    target = target.with_ids(endpoint_id=target.value(f"{rpc.context or 'identity'}_event_endpoint_id"))
    _fill(request, target, next(_serials) if serial is None else serial)
    for name, value in own.items():
        _set(request, name, value)
    try:
        validation.check(request)
    except InvalidArgument as refusal:
        raise NoValidRequest(f"{rpc.name}: {refusal.message}") from None
    return request


def _fill(request: Message, target: Target, serial: int) -> None:
    fields = cast(Sequence[FieldDescriptor], request.DESCRIPTOR.fields)
    for field in fields:
        if field.containing_oneof is not None and request.WhichOneof(field.containing_oneof.name):
            continue
        value = _value(field, target, serial)
        if field.message_type is not None:
            _fill_message(request, field, target, serial)
        elif field.is_repeated:
            if value:
                getattr(request, field.name).append(value)
        elif value:
            setattr(request, field.name, value)
    if "update_mask" in request.DESCRIPTOR.fields_by_name:
        request.update_mask.paths[:] = [_updated(request)]  # type: ignore[attr-defined]


def _fill_message(request: Message, field: FieldDescriptor, target: Target, serial: int) -> None:
    kind = field.message_type
    if kind is None:
        return
    if kind.name == "Timestamp" and field.name in ("start_time", "end_time"):
        moment = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        getattr(request, field.name).FromDatetime(moment + timedelta(hours=1 if field.name == "end_time" else -24))
    elif field.name == "ttl":
        getattr(request, field.name).FromSeconds(600)
    elif field.is_repeated and kind.name.endswith("Request"):
        _fill(getattr(request, field.name).add(), target, serial)
    elif not field.is_repeated and (kind.name in _NESTED or kind.name.endswith("Request")):
        _fill(getattr(request, field.name), target, serial)
        getattr(request, field.name).SetInParent()


def _value(field: FieldDescriptor, target: Target, serial: int) -> str | int | bool:
    name = str(field.name)
    if field.enum_type is not None:
        known = _ENUMS.get(field.enum_type.name)
        return int(field.enum_type.values_by_name[known].number) if known else 0
    if field.type == FieldDescriptor.TYPE_STRING:
        # `project_ids` takes what `project_id` takes.
        found = target.value(name.removesuffix("s") if field.is_repeated else name)
        return found or _TEXTS.get(name, "").format(serial=serial)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _FLAGS.get(name, False)
    return _NUMBERS.get(name, 0)


def _updated(request: Message) -> str:
    """Return the name of a field that an update may change."""
    names = [*request.DESCRIPTOR.fields_by_name]
    names += [f for field in request.DESCRIPTOR.fields if field.message_type for f in field.message_type.fields_by_name]
    return next((name for name in _UPDATED if name in names), "unknown")


def _set(request: Message, name: str, value: object) -> None:
    request.ClearField(name)
    if isinstance(value, Message):
        getattr(request, name).CopyFrom(value)
    elif isinstance(value, list):
        getattr(request, name).extend(value)
    elif value is not None:
        setattr(request, name, value)
