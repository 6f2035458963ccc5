"""Voids and credits invoices, and says whether they are paid.

Each change is one transaction, which locks the invoice first. A credit note takes its number in it, as an invoice does.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Final

from libs.common.amount import format_amount
from libs.common.audit.recording import Changed, record_event
from libs.common.call import current_actor
from libs.common.clock import Clock
from libs.common.database import RawConnection
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.ids import new_id
from libs.common.repeats.once import Repeatable
from libs.common.shards import Shards
from services.billing import invoice_errors
from services.billing.invoice import party_store, store
from services.billing.invoice.announcing import announce_document
from services.billing.invoice.domain import (
    ZERO,
    CreditExceedsLine,
    Document,
    DocumentKind,
    State,
    credit_amounts,
    credit_lines,
    is_within,
)
from services.billing.invoice.invoices import add_document, existing, keep_response, known_response
from services.billing.invoice.paying import require_paid

_OPEN: Final = frozenset({State.ISSUED, State.UNCOLLECTIBLE})
Render = Callable[[Document, Document], bytes]


class Corrections:
    """Changes the documents of one organization at a time. Another organization's look like missing ones."""

    def __init__(self, shards: Shards, clock: Clock) -> None:
        self._shards = shards
        self._clock = clock

    async def void(self, organization_id: str, invoice_id: str, reason: str) -> tuple[Document, Document]:
        """Void an invoice; return it, and the credit note over all of it. A repeat returns the same.

        Raises:
            NotFound: the organization has no such document.
            InvoiceState: it is paid, or a credit note.
            InvoiceHasCreditNotes: a part of it was credited before.
        """
        async with self._shards.of(organization_id).raw_transaction() as connection:
            before = existing(await store.lock(connection, organization_id, invoice_id), invoice_id)
            notes = await store.notes_of(connection, organization_id, invoice_id)
            if before.state is State.VOID:
                return before, notes[-1]
            _require(before, _OPEN, "voided")
            if notes:
                raise invoice_errors.InvoiceHasCreditNotes(number=before.number)
            await store.lock_account(connection, organization_id, before.account_id)
            credited = replace(before.amounts, credited=before.amounts.total)
            voided = replace(before, state=State.VOID, state_time=self._clock.now(), reason=reason, amounts=credited)
            await self._set_state(connection, before, voided)
            note = await self._credit(connection, before, {}, reason, notes, all_of_it=True)
            await announce_document(connection, "voided", voided, credit_note_number=note.number, reason=voided.reason)
            return voided, note

    async def credit(
        self,
        organization_id: str,
        invoice_id: str,
        wanted: Mapping[int, Decimal | None],
        reason: str,
        repeatable: Repeatable,
        render: Render,
    ) -> tuple[bytes, bool]:
        """Issue a credit note; return the rendered response, and whether it is a replay.

        Raises:
            NotFound: the organization has no such document.
            InvalidArgument: the invoice has no such line.
            InvoiceState: it is void, or a credit note.
            CreditExceedsInvoice: less is left of a line, or of all.
            RequestIdReused: the request id was sent before with another body.
        """
        async with self._shards.of(organization_id).raw_transaction() as connection:
            known = await known_response(connection, organization_id, repeatable)
            if known is not None:
                return known, True
            before = existing(await store.lock(connection, organization_id, invoice_id), invoice_id)
            _require(before, _OPEN | {State.PAID}, "credited")
            notes = await store.notes_of(connection, organization_id, invoice_id)
            note = await self._credit(connection, before, wanted, reason, notes)
            credited = before.amounts.credited + note.amounts.total
            after = replace(before, amounts=replace(before.amounts, credited=credited))
            await announce_document(
                connection,
                "credited",
                after,
                note.issue_time,
                credit_note_id=note.invoice_id,
                credit_note_number=note.number,
                credit_note_total=format_amount(note.amounts.total),
                reason=note.reason,
            )
            answer = render(note, after)
            await keep_response(connection, organization_id, repeatable, answer, self._clock)
            return answer, False

    async def set_paid(
        self, organization_id: str, invoice_id: str, payment_id: str | None, operation_id: str | None
    ) -> Document:
        """Say by what an invoice is paid, and return it. A repeat changes nothing.

        Raises:
            NotFound: the organization has no such document, or no such payment.
            InvoiceState: it is void, a credit note, or was paid by something else.
            TransactionNotFound: the operation has moved nothing.
            DoesNotPayInvoice: the payment or the operation has not brought enough in the currency of the invoice.
        """
        async with self._shards.of(organization_id).raw_transaction() as connection:
            before = existing(await store.lock(connection, organization_id, invoice_id), invoice_id)
            if before.state is State.PAID and (before.payment_id, before.operation_id) == (payment_id, operation_id):
                return before
            _require(before, _OPEN, "paid")
            await require_paid(connection, before, payment_id, operation_id)
            paid = replace(
                before,
                state=State.PAID,
                state_time=self._clock.now(),
                payment_id=payment_id,
                operation_id=operation_id,
            )
            await self._set_state(connection, before, paid)
            await announce_document(connection, "paid", paid, payment_id=payment_id, operation_id=operation_id)
            return paid

    async def set_uncollectible(self, organization_id: str, invoice_id: str, reason: str) -> Document:
        """Say that an invoice will not be paid, and return it. Raises NotFound, InvoiceState."""
        async with self._shards.of(organization_id).raw_transaction() as connection:
            before = existing(await store.lock(connection, organization_id, invoice_id), invoice_id)
            if before.state is State.UNCOLLECTIBLE:
                return before
            _require(before, _OPEN, "uncollectible")
            after = replace(before, state=State.UNCOLLECTIBLE, state_time=self._clock.now(), reason=reason)
            await self._set_state(connection, before, after)
            await announce_document(connection, "uncollectible", after, reason=reason)
            return after

    async def _set_state(self, connection: RawConnection, before: Document, after: Document) -> None:
        await store.set_state(connection, after)
        paid_by = after.payment_id or after.operation_id
        await record_event(
            connection,
            now=after.state_time,
            organization_id=after.organization_id,
            resource_type="invoice",
            resource_id=after.invoice_id,
            changed=(
                Changed("state", before.state.value, after.state.value),
                *([Changed("reason", before.reason, after.reason)] if before.reason != after.reason else []),
                *([Changed("paid_by", None, paid_by)] if paid_by is not None else []),
            ),
        )

    async def _credit(
        self,
        connection: RawConnection,
        invoice: Document,
        wanted: Mapping[int, Decimal | None],
        reason: str,
        notes: list[Document],
        *,
        all_of_it: bool = False,
    ) -> Document:
        """Store a credit note on an invoice whose row is locked, and return it.

        One over all of an invoice is also stored where that comes to nothing.
        """
        credited: dict[int, Decimal] = {}
        for line in (line for note in notes for line in note.lines):
            credited[line.corrects_line] = credited.get(line.corrects_line, ZERO) + line.amount
        try:
            lines = credit_lines(invoice.lines, credited, wanted)
        except KeyError as error:
            raise InvalidArgument([FieldViolation("lines", f"the invoice has no line {error.args[0]}")]) from None
        except CreditExceedsLine as error:
            raise invoice_errors.CreditExceedsInvoice(
                number=invoice.number, line_number=error.line_number, left=error.left
            ) from None
        if not lines and not all_of_it:
            raise invoice_errors.CreditExceedsInvoice(number=invoice.number, line_number="any", left=ZERO)
        before = sum((note.amounts.subtotal for note in notes), ZERO)
        amounts = credit_amounts(invoice, before, sum((line.amount for line in lines), ZERO))
        if not is_within(invoice.amounts.subtotal, before + amounts.subtotal):
            left = invoice.amounts.subtotal - before
            raise invoice_errors.CreditExceedsInvoice(number=invoice.number, line_number="all", left=left)
        now = self._clock.now()
        note = replace(
            invoice,
            invoice_id=new_id(),
            kind=DocumentKind.CREDIT_NOTE,
            state=State.ISSUED,
            number="",
            lines=lines,
            amounts=amounts,
            issue_time=now,
            state_time=now,
            due_time=None,
            actor=current_actor(),
            step=None,
            credits_used={},
            payment_id=None,
            operation_id=None,
            corrects_invoice_id=invoice.invoice_id,
            corrects_number=invoice.number,
            reason=reason,
            replaces=(),
        )
        await store.add_credited(connection, note)
        return await add_document(connection, note, await self._prefix(connection, invoice), None)

    async def _prefix(self, connection: RawConnection, invoice: Document) -> str:
        """Return the prefix of a new document; that of the invoice where nobody says one any more."""
        recipient = await party_store.find_recipient(connection, invoice.organization_id)
        issuer = await party_store.find_issuer(connection)
        if recipient.prefix or issuer is not None:
            return recipient.prefix or (issuer.prefix if issuer is not None else "")
        return invoice.number.rstrip("0123456789")


def _require(document: Document, states: frozenset[State] | set[State], change: str) -> None:
    """Raise InvoiceState for a document that is no invoice in one of the states."""
    if document.kind is DocumentKind.CREDIT_NOTE:
        raise invoice_errors.InvoiceState(number=document.number, state="a credit note", change=change)
    if document.state not in states:
        raise invoice_errors.InvoiceState(number=document.number, state=document.state.value, change=change)
