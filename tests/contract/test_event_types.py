"""docs/events.md lists every type of events that the code announces, and no other."""

import re
from typing import get_args

from services.billing.invoice import announcing as invoices
from services.billing.payment import announcements as payments
from services.billing.subscription.announcements import type_of
from services.billing.subscription.states import EventKind
from tests.contract.sources import ROOT, sources

_WRITTEN_OUT = re.compile(r'"(tollhouse\.[a-z_]+\.[a-z_]+)"')


def _announced() -> set[str]:
    written = {name for source in sources("services", "libs") for name in _WRITTEN_OUT.findall(source.text)}
    return (
        written
        | {type_of(kind) for kind in EventKind}
        | {f"tollhouse.invoice.{what}" for what in get_args(invoices.What)}
        | {f"tollhouse.payment.{what}" for what in get_args(payments.What)}
    )


def _listed() -> set[str]:
    page = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    listed: set[str] = set()
    for cell in re.findall(r"^\| (`tollhouse\.[^|]*) \|", page, re.MULTILINE):
        first, *others = re.findall(r"`([a-z_.]+)`", cell)
        noun = first.rpartition(".")[0]
        listed |= {first, *(noun + other for other in others)}
    return listed


def test_the_page_lists_every_type_that_is_announced() -> None:
    assert _listed() == _announced()
