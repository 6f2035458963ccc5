"""Entitlements as people read and type them: `yes`, `3`, `"eu"`, `50 requests per minute`."""

import re
from typing import Final

from libs.cli.failures import WrongUse
from libs.cli.terminal.output import cell
from tollhouse.billing.v1 import plan_pb2

_FEATURES: Final = {"yes": True, "no": False}
_NUMBER: Final = re.compile(r"-?\d{1,15}(\.\d{1,9})?", re.ASCII)
_LIMIT: Final = re.compile(
    r"(unlimited|\d{1,15}(?:\.\d{1,9})?) ([a-z][a-z0-9_]*)(?: ([A-Z][A-Z0-9]+))? per ([a-z]+)(, soft)?", re.ASCII
)
_EXAMPLES: Final = "yes, no, 3, '\"eu\"', '50 requests per minute', '20 spend USD per period, soft'"


def entitlement_text(one: plan_pb2.Entitlement) -> str:
    """Return what an entitlement allows, in a form that `read_entitlement` reads."""
    kind = one.WhichOneof("value") or "enabled"
    if kind == "text":
        return f'"{one.text}"'
    if kind != "limit":
        return cell(one, kind)
    limit = one.limit
    maximum = "unlimited" if limit.unlimited else limit.value
    what = f"{limit.metric} {limit.currency_code}".rstrip()
    return f"{maximum} {what} per {cell(limit, 'window')}{', soft' if limit.soft else ''}"


def read_entitlement(code: str, text: str) -> plan_pb2.Entitlement:
    """Read what an entitlement of a code is to allow; raises WrongUse for what allows nothing."""
    if text in _FEATURES:
        return plan_pb2.Entitlement(entitlement_code=code, enabled=_FEATURES[text])
    if _NUMBER.fullmatch(text):
        return plan_pb2.Entitlement(entitlement_code=code, number=text)
    if len(text) > 1 and text.startswith('"') and text.endswith('"'):
        return plan_pb2.Entitlement(entitlement_code=code, text=text[1:-1])
    found = _LIMIT.fullmatch(text)
    windows = plan_pb2.LimitWindow.DESCRIPTOR.values_by_name
    window = windows.get(f"LIMIT_WINDOW_{found[4].upper()}") if found else None
    if found is None or window is None:
        raise WrongUse(f"{text!r} is nothing that can be allowed. Examples: {_EXAMPLES}.")
    limit = plan_pb2.EntitledLimit(metric=found[2], currency_code=found[3] or "", soft=bool(found[5]))
    limit.window = plan_pb2.LimitWindow.Value(window.name)
    if found[1] == "unlimited":
        limit.unlimited = True
    else:
        limit.value = found[1]
    return plan_pb2.Entitlement(entitlement_code=code, limit=limit)
