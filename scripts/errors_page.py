"""Writes the tables of docs/errors.md, every reason of every service, from the classes of refusals.

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
from scripts.written_page import write_or_check

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
MARK = "<!-- From here on the page is written by `make protos` from the classes of refusals. -->"


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


def _meaning(refusal: type[Refusal]) -> str:
    """Return the first sentence of a refusal's docstring, which ends with its line or is continued on the next."""
    text = " ".join((inspect.getdoc(refusal) or "").partition("\n\n")[0].split())
    if not text.endswith("."):
        raise ValueError(f"The docstring of {refusal.__name__} does not say in a sentence what it means.")
    return text


if __name__ == "__main__":
    sys.exit(main())
