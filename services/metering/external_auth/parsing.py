"""Envoy's CheckRequest as what is asked.

What a client can choose never fails the call: Envoy may let a request pass whose check failed.
"""

import re
from collections.abc import Collection, Mapping
from typing import Final

from envoy.service.auth.v3 import attribute_context_pb2 as context_pb
from envoy.service.auth.v3 import external_auth_pb2 as pb

from libs.common.addresses import Network, client_behind, parse_address
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.ids import is_id
from services.metering.external_auth.domain import AUTHORIZATION, PREFIX, Asked, Route

_FORWARDED_FOR: Final = "x-forwarded-for"
_BEARER: Final = "bearer "
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
"""What the name of a header is made of (RFC 9110)."""
_FIELD: Final = "attributes.context_extensions"
_LABELS: Final = "labels."
_SCOPE: Final = re.compile(r"[a-z0-9_.:*-]{1,64}")
_SCOPES_MAX: Final = 20
_MODEL_MAX_CHARS: Final = 256
_CURRENCY: Final = re.compile("[A-Z][A-Z0-9]{1,11}")
_LABELS_MAX: Final = 16
_LABEL_MAX_CHARS: Final = 64
_VALUE_MAX_CHARS: Final = 256


def read_check(
    request: pb.CheckRequest, *, key_headers: Collection[str], remove_key: bool, proxies: Collection[Network]
) -> Asked:
    """Read a request.

    Raises:
        InvalidArgument: the route demands something that does not exist.
    """
    attributes = request.attributes
    route = read_route(attributes.context_extensions)
    headers = attributes.request.http.headers
    keys = {name: key for name in key_headers if (key := _key_in(name, headers.get(name, "")))}
    removed = [name for name in headers if _tells_whose(name)]
    if remove_key:
        removed += keys
    return Asked(
        tuple(dict.fromkeys(keys.values())),
        _client_address(attributes.source, headers.get(_FORWARDED_FOR, ""), proxies),
        route,
        removed,
    )


def read_route(extensions: Mapping[str, str]) -> Route:
    """Read what a route demands.

    Raises:
        InvalidArgument: it names something that does not exist, or a value is none.
    """
    violations: list[FieldViolation] = []
    labels: dict[str, str] = {}
    for name, value in sorted(extensions.items()):
        label = name.removeprefix(_LABELS)
        if label != name:
            labels[label] = value
            wrong = None if _is_label(label, value) else "must be a label of 1 to 64 characters with at most 256"
        elif name in _CHECKS:
            is_right, demanded = _CHECKS[name]
            wrong = None if is_right(value) else f"must be {demanded}"
        else:
            wrong = f"must be one of {', '.join(_CHECKS)} and {_LABELS}KEY"
        if wrong is not None:
            violations.append(FieldViolation(f"{_FIELD}[{_shown(name)}]", wrong))
    if len(labels) > _LABELS_MAX:
        violations.append(FieldViolation(_FIELD, f"must have at most {_LABELS_MAX} labels"))
    if violations:
        raise InvalidArgument(violations)
    return Route(
        tuple(extensions.get("scope", "").split()),
        extensions.get("model", ""),
        extensions.get("project_id", "").lower(),
        extensions.get("organization_id", "").lower(),
        extensions.get("currency_code", ""),
        labels,
    )


def _is_text(value: str, chars_max: int) -> bool:
    return 1 <= len(value) <= chars_max and value.isprintable()


def _is_label(label: str, value: str) -> bool:
    return _is_text(label, _LABEL_MAX_CHARS) and _is_text(value, _VALUE_MAX_CHARS)


def _are_scopes(value: str) -> bool:
    scopes = value.split()
    return 1 <= len(scopes) <= _SCOPES_MAX and all(_SCOPE.fullmatch(scope) for scope in scopes)


_CHECKS: Final = {
    "scope": (_are_scopes, "1 to 20 scopes, separated by spaces"),
    "model": (lambda value: _is_text(value, _MODEL_MAX_CHARS), "a model of 1 to 256 characters"),
    "project_id": (lambda value: is_id(value.lower()), "a UUID"),
    "organization_id": (lambda value: is_id(value.lower()), "a UUID"),
    "currency_code": (lambda value: _CURRENCY.fullmatch(value) is not None, "a currency such as USD"),
}


def _shown(name: str) -> str:
    """Return the name as it can stand in an answer."""
    shown = name[:_LABEL_MAX_CHARS]
    return shown if shown.isascii() and shown.isprintable() else ascii(shown)


def _key_in(name: str, value: str) -> str:
    """Return the key in a header; empty where it holds none."""
    if name != AUTHORIZATION:
        return value.strip()
    value = value.strip()
    return value[len(_BEARER) :].strip() if value[: len(_BEARER)].lower() == _BEARER else ""


def _tells_whose(name: str) -> bool:
    """Tell whether a header could be taken for one of ours: some servers make dashes of underscores."""
    return name.lower().replace("_", "-").startswith(PREFIX) and _HEADER.fullmatch(name) is not None


def _client_address(source: context_pb.AttributeContext.Peer, forwarded_for: str, proxies: Collection[Network]) -> str:
    address = parse_address(source.address.socket_address.address)
    if address is None:
        return ""
    return str(client_behind(address, forwarded_for, proxies)) if proxies else str(address)
