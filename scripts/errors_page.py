"""Writes the tables of docs/errors.md: every reason of every service from the classes of refusals, and the denials.

What stands above the mark in the page is written by hand and kept.

Without arguments it writes the page; with `--check` it changes nothing and fails when the committed page says something
else. A refusal without a meaning (the first sentence of its docstring) or a remedy makes it fail either way.
"""

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from libs.common.errors import Kind, Refusal
from scripts.comments import comments
from scripts.written_page import write_or_check
from services.metering.admission.hints import http_status_of
from tollhouse.metering.v1 import admission_pb2

PAGE = Path(__file__).resolve().parent.parent / "docs" / "errors.md"
MODULES: Mapping[str, str] = {
    "All services": "libs.common.errors",
    "Identity": "services.identity.errors",
    "Billing": "services.billing.errors",
    "Billing, on payments": "services.billing.payment_errors",
    "Billing, on invoices": "services.billing.invoice_errors",
    "Metering": "services.metering.errors",
    "Metering, on usage": "services.metering.usage_errors",
}
HTTP_STATUSES: Mapping[Kind, int] = {
    Kind.INVALID_ARGUMENT: 400,
    Kind.FAILED_PRECONDITION: 400,
    Kind.OUT_OF_RANGE: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.PERMISSION_DENIED: 403,
    Kind.NOT_FOUND: 404,
    Kind.ALREADY_EXISTS: 409,
    Kind.ABORTED: 409,
    Kind.RESOURCE_EXHAUSTED: 429,
    Kind.UNAVAILABLE: 503,
    Kind.DEADLINE_EXCEEDED: 504,
}
"""What Envoy makes of a code, as google/rpc/code.proto says."""
DENIAL_REMEDIES: Mapping[str, str] = {
    "ACCOUNT_CLOSED": "Open a new account for the organization; ask with a new id.",
    "AUTHORIZATION_ENDED": "Take a new operation id for a new call.",
    "CURRENCY_MISMATCH": "Open an account in the price's currency, or set a price in the account's; ask with a new id.",
    "INSUFFICIENT_BALANCE": "Credit the account, ask for less, or wait until a hold ends; ask with a new id.",
    "KEY_ADDRESS_NOT_ALLOWED": "Call from an address that the key allows; a gateway must send the client's address.",
    "KEY_DISABLED": "Enable the key, or use another one.",
    "KEY_EXPIRED": "Create a new key.",
    "KEY_INSUFFICIENT_SCOPE": "Use a key with the scope, or have it given to the key and to its owner.",
    "KEY_MODEL_NOT_ALLOWED": "Call a model that the key may be used for, or allow the key this model.",
    "KEY_NOT_FOUND": "Check the secret; to a gateway with a key of its own, other organizations' keys look the same.",
    "KEY_OWNER_INACTIVE": "Activate the owner again, or create a key in a project that exists, for an active owner.",
    "KEY_REVOKED": "Create a new key; a revocation cannot be undone.",
    "LIMIT_EXCEEDED": "Wait for `retry_after_ms` where the facts have it; else ask for less, or raise the limit.",
    "MODEL_INACTIVE": "Call another model, or have the operator switch this one on.",
    "MODEL_UNKNOWN": "Check the name, or have the operator add the model.",
    "PRICE_UNKNOWN": "Have the operator set a price that is in force now, for each unit that the call may use.",
    "SUBSCRIPTION_NOT_LIVE": "Name a live subscription for this user and model, or use another key.",
}
"""What to do about each denial: a `DenialReason` without the enum's name."""
DENIALS_TEXT = """\
`Authorize`, and `AcquireLease` for some of them, answer with these in `denial`: the call may not begin, and nothing is
held. `INSUFFICIENT_BALANCE` is final for the operation id, even after money was added.
`VerifyApiKey` answers with a code, one of `KEY_…` without `KEY_`; over REST its status is 200 whatever it says."""
MARK = (
    "<!-- From here on the page is written by `make protos` from the classes of refusals and the proto of denials. -->"
)


def main() -> int:
    """Write or check the page; return the exit status."""
    return write_or_check(PAGE, render, source="the refusals")


def render() -> str:
    """Return the page."""
    return "\n".join(_lines()) + "\n"


def refusals(module: str) -> list[type[Refusal]]:
    """Return the refusals that a module defines, by their reasons."""
    classes = (value for _, value in inspect.getmembers(importlib.import_module(module), inspect.isclass))
    found = [cls for cls in classes if issubclass(cls, Refusal) and cls is not Refusal and cls.__module__ == module]
    return sorted(found, key=lambda cls: cls.reason)


def _lines() -> Iterator[str]:
    yield PAGE.read_text(encoding="utf-8").partition(MARK)[0] + MARK
    for title, module in MODULES.items():
        yield ""
        yield f"## {title}"
        yield ""
        yield "| reason | code | over REST | it means | what to do |"
        yield "| --- | --- | --- | --- | --- |"
        for refusal in refusals(module):
            code = f"{refusal.kind.value} | {refusal.http_status or HTTP_STATUSES[refusal.kind]}"
            yield f"| `{refusal.reason}` | {code} | {_meaning(refusal)} | {refusal.remedy} |"
    yield from _denials()


def denial_reasons() -> list[str]:
    """Return the reasons of denials that are sent, sorted."""
    named = admission_pb2.DenialReason.items()
    return sorted(name.removeprefix("DENIAL_REASON_") for name, number in named if number)


def _denials() -> Iterator[str]:
    yield ""
    yield "## Denials of calls"
    yield ""
    yield DENIALS_TEXT
    yield ""
    yield "| reason | over REST | it means | what to do |"
    yield "| --- | --- | --- | --- |"
    for reason in denial_reasons():
        meaning = comments()[f"tollhouse.metering.v1.DENIAL_REASON_{reason}"].partition(". ")[0].removesuffix(".")
        yield f"| `{reason}` | {http_status_of(reason)} | {meaning}. | {DENIAL_REMEDIES[reason]} |"


def _meaning(refusal: type[Refusal]) -> str:
    """Return the first sentence of a refusal's docstring, which ends with its line or is continued on the next."""
    text = " ".join((inspect.getdoc(refusal) or "").partition("\n\n")[0].split())
    if not text.endswith("."):
        raise ValueError(f"The docstring of {refusal.__name__} does not say in a sentence what it means.")
    return text


if __name__ == "__main__":
    sys.exit(main())
