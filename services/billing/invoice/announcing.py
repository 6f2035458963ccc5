"""Announces what became of invoices, in the transaction of the change."""

from datetime import datetime
from typing import Literal, TypeAlias

from libs.common.amount import format_amount
from libs.common.database import RawConnection
from libs.common.events.outbox import NewEvent, announce
from services.billing.invoice.domain import Document

What: TypeAlias = Literal["issued", "paid", "voided", "credited", "uncollectible", "overdue"]


async def announce_document(
    connection: RawConnection,
    what: What,
    document: Document,
    moment: datetime | None = None,
    **besides: str | None,
) -> None:
    """Announce `tollhouse.invoice.<what>`, at the moment since which its state is so if none is given.

    The lines are not told: whoever wants them reads the document.
    """
    amounts = document.amounts
    data = {
        "invoice_id": document.invoice_id,
        "number": document.number,
        "account_id": document.account_id,
        "project_id": document.project_id,
        "currency_code": document.currency_code,
        "subtotal": format_amount(amounts.subtotal),
        "tax": format_amount(amounts.tax),
        "total": format_amount(amounts.total),
        "amount_due": format_amount(amounts.due),
        **besides,
    }
    event = NewEvent(document.organization_id, f"tollhouse.invoice.{what}", f"invoice/{document.invoice_id}", data)
    await announce(connection, [event], moment or document.state_time)
