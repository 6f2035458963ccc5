"""Previews, issues and reads invoices.

Issuing is one transaction, after everything was read: it locks the account's invoices, makes sure that they are as they
were when the invoice was put together, takes the next number and stores the document with it. Whatever dies before its
commit leaves nothing, and the number is the next one's.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final

from libs.common.audit.recording import Changed, record_event
from libs.common.call import current_actor
from libs.common.clock import Clock
from libs.common.database import RawConnection
from libs.common.errors import Conflict, NotFound
from libs.common.ids import new_id
from libs.common.pages import encode_page_token, id_in_token, page_size
from libs.common.repeats.once import Repeatable, known_answer
from libs.common.shards import Shards
from services.billing import invoice_errors
from services.billing.invoice import party_store, store
from services.billing.invoice.announcing import announce_document
from services.billing.invoice.collection import Collected, Collection, Wanted
from services.billing.invoice.domain import (
    Amounts,
    Document,
    DocumentKind,
    Issuer,
    Party,
    Recipient,
    State,
    TaxSource,
    tax_on,
)

_ATTEMPTS_MAX: Final = 3
"""How often an invoice is put together while others of the account are issued or voided at the same moment."""
_SCAN_MIN: Final = 200
"""A filtered page reads at least this many rows."""
_NOBODY: Final = Issuer(Party(), "", 0, 0, "en", "")

Render = Callable[[Document], bytes]
Claim = Callable[[RawConnection, bool], Awaitable[bool]]
"""Notes in the transaction of an invoice that it is issued, and returns whether nobody else has done so. It is told
whether the account has more movements than one invoice covers."""
_CLAIMED: Final = b"issued"
_ONCE_BY_CLAIM: Final = Repeatable("", "", b"", lambda _: "")


class Invoices:
    """The documents of one organization at a time. Another organization's look like missing ones."""

    def __init__(self, shards: Shards, collection: Collection, tax_source: TaxSource, clock: Clock) -> None:
        self._shards = shards
        self._collection = collection
        self._tax_source = tax_source
        self._clock = clock

    async def preview(self, wanted: Wanted) -> Document:
        """Return the invoice that would be issued now, as a draft; raises what `Collection.collect` does."""
        collected = await self._collection.collect(wanted)
        async with self._shards.of(wanted.organization_id).raw_connection() as connection:
            issuer = await party_store.find_issuer(connection) or _NOBODY
            recipient = await party_store.find_recipient(connection, wanted.organization_id)
        return self._document(collected, issuer, recipient, State.DRAFT)

    async def issue(
        self, wanted: Wanted, repeatable: Repeatable, render: Render, *, skip_grace: bool
    ) -> tuple[bytes, bool]:
        """Issue an invoice; return the rendered response, and whether it is a replay.

        Raises what `Collection.collect` does, and:
            IssuerNotSet: nobody has said who issues.
            GraceNotOver: the days of grace are not over.
            RequestIdReused: the request id was sent before with another body.
        """
        for _ in range(_ATTEMPTS_MAX):
            async with self._shards.of(wanted.organization_id).raw_transaction() as connection:
                known = await known_response(connection, wanted.organization_id, repeatable)
                issuer = await party_store.find_issuer(connection)
            if known is not None:
                return known, True
            if issuer is None:
                raise invoice_errors.IssuerNotSet
            try:
                collected = await self._collection.collect(wanted)
            except (invoice_errors.NothingToInvoice, invoice_errors.InvoiceEndsTooEarly):
                # Another call of the same id may have issued it meanwhile, and others further invoices.
                async with self._shards.of(wanted.organization_id).raw_transaction() as connection:
                    known = await known_response(connection, wanted.organization_id, repeatable)
                if known is None:
                    raise
                return known, True
            issue_from = collected.step.to_time + timedelta(days=issuer.grace_days)
            if not skip_grace and self._clock.now() < issue_from:
                raise invoice_errors.GraceNotOver(issue_from_time=issue_from)
            answer = await self._store(collected, repeatable, render)
            if answer is not None:
                return answer
        raise Conflict

    async def issue_due(self, wanted: Wanted, claim: Claim) -> bool:
        """Issue an invoice that is due by itself; return whether it was this call that did.

        Raises as `Collection.collect` does, and Conflict.
        """
        for _ in range(_ATTEMPTS_MAX):
            collected = await self._collection.collect(wanted)
            answer = await self._store(collected, _ONCE_BY_CLAIM, lambda _: _CLAIMED, claim)
            if answer is not None:
                return answer[0] == _CLAIMED
        raise Conflict

    async def _store(
        self, collected: Collected, repeatable: Repeatable, render: Render, claim: Claim | None = None
    ) -> tuple[bytes, bool] | None:
        """Store an invoice in one transaction; None where the account's invoices have changed meanwhile."""
        account = collected.account
        async with self._shards.of(account.organization_id).raw_transaction() as connection:
            known = await known_response(connection, account.organization_id, repeatable)
            if known is not None:
                return known, True
            key = account.organization_id, account.account_id
            await store.lock_account(connection, *key)
            head = await store.find_head(connection, *key)
            free = await store.find_free(connection, *key, len(collected.replaces) + 1)
            if (1 if head is None else head.position + 1) != collected.position:
                return None
            if free[: len(collected.replaces)] != collected.replaces:
                return None
            if claim is not None and not await claim(connection, collected.step.to_sequence < account.sequence):
                return b"", True
            issuer = await party_store.find_issuer(connection) or _NOBODY
            recipient = await party_store.find_recipient(connection, account.organization_id)
            draft = self._document(collected, issuer, recipient, State.ISSUED)
            direct = [replaced[0] for replaced in collected.replaces]
            if direct:
                await store.replace_voided(connection, account.organization_id, direct, draft.invoice_id)
            place = store.Place(
                collected.position,
                collected.step_amount,
                collected.rest_from,
                collected.rest_amount,
                dict(collected.grants_used),
            )
            issued = await add_document(connection, draft, recipient.prefix or issuer.prefix, place)
            await announce_document(connection, "issued", issued)
            answer = render(issued)
            await keep_response(connection, account.organization_id, repeatable, answer, self._clock)
            return answer, False

    def _document(self, collected: Collected, issuer: Issuer, recipient: Recipient, state: State) -> Document:
        account, now = collected.account, self._clock.now()
        subtotal = collected.subtotal
        tax = self._tax_source(recipient, account.currency_code, subtotal, now)
        project_id = None if account.owner_id == account.organization_id else account.owner_id
        return Document(
            organization_id=account.organization_id,
            invoice_id=new_id(),
            kind=DocumentKind.INVOICE,
            state=state,
            number="",
            account_id=account.account_id,
            project_id=project_id,
            currency_code=account.currency_code,
            lines=collected.lines,
            amounts=Amounts(
                subtotal,
                tax_on(subtotal, tax.percent, account.currency_code),
                collected.credits_applied,
            ),
            tax=tax,
            issuer=issuer.party,
            recipient=recipient.party,
            language=recipient.language or issuer.language or "en",
            footer=issuer.footer,
            issue_time=now,
            state_time=now,
            due_time=now + timedelta(days=issuer.due_days),
            actor=current_actor(),
            step=collected.step,
            credits_used=collected.credits_used,
            replaces=tuple(one for replaced in collected.replaces for one in replaced),
        )

    async def get(self, organization_id: str, invoice_id: str) -> Document:
        """Return a document. Raises NotFound."""
        async with self._shards.of(organization_id).raw_connection() as connection:
            return existing(await store.find(connection, organization_id, invoice_id), invoice_id)

    async def page(
        self,
        organization_id: str,
        *,
        kind: DocumentKind | None,
        state: State | None,
        number: str,
        size: int,
        page_token: str,
        fitting: Callable[[list[Document]], int],
    ) -> tuple[list[Document], str]:
        """Return a page of documents without their lines, the latest first, and the token of the next.

        `fitting` says how many of some documents fit into an answer.
        """
        fingerprint = f"invoices/{organization_id}/{kind}/{state}/{number}"
        before = id_in_token(page_token, fingerprint)
        size = page_size(size)
        filtered = kind is not None or state is not None
        scan = max(size, _SCAN_MIN) if filtered else size
        async with self._shards.of(organization_id).raw_connection() as connection:
            if number:
                rows = await store.of_number(connection, organization_id, number)
            else:
                rows = await store.before(connection, organization_id, before, scan)
        wanted = [one for one in rows if kind in (None, one.kind) and state in (None, one.state)]
        page = wanted[: fitting(wanted[:size])]
        last = page[-1] if len(wanted) > len(page) else rows[-1] if len(rows) == scan and not number else None
        return page, encode_page_token(last.invoice_id, fingerprint=fingerprint) if last is not None else ""


def existing(document: Document | None, invoice_id: str) -> Document:
    if document is None:
        raise NotFound(resource_type="invoice", resource_name=invoice_id)
    return document


async def add_document(
    connection: RawConnection, document: Document, prefix: str, place: store.Place | None
) -> Document:
    """Note a new document in the audit trail, store it under the next number, and return it.

    From the number on others wait who take one of the same prefix, so little may follow.
    """
    await record_event(
        connection,
        now=document.issue_time,
        organization_id=document.organization_id,
        resource_type="invoice",
        resource_id=document.invoice_id,
        changed=(
            Changed("kind", after=document.kind.value),
            Changed("total", after=f"{document.amounts.total:f} {document.currency_code}"),
            Changed("reason", after=document.reason),
        ),
    )
    return replace(document, number=await store.insert(connection, document, prefix, place))


async def known_response(connection: RawConnection, organization_id: str, repeatable: Repeatable) -> bytes | None:
    """Return what was answered to the request before; its id stays locked until the transaction ends."""
    if not repeatable.request_id:
        return None
    known = await store.find_request(connection, organization_id, repeatable.request_id)
    return None if known is None else known_answer(repeatable, *known)


async def keep_response(
    connection: RawConnection, organization_id: str, repeatable: Repeatable, answer: bytes, clock: Clock
) -> None:
    """Store the answer to a request that may be sent again."""
    if repeatable.request_id:
        values = repeatable.request_id, repeatable.rpc, repeatable.request, answer, clock.now()
        await store.keep_request(connection, organization_id, *values)
