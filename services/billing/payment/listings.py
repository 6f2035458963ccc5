"""Reads payments with their references and refunds."""

from dataclasses import dataclass, replace
from typing import Final

from libs.common.errors import NotFound
from libs.common.pages import encode_page_token, id_in_token, page_size
from libs.common.shards import Shards
from services.billing.payment import refund_store, store
from services.billing.payment.domain import Payment, Refund
from services.billing.payment.provider import ReferenceKind
from services.billing.payment.references import ProvidersReference, References
from services.billing.payment.store import Filter

_SCAN_MIN: Final = 500
"""A filtered page reads at least this many rows."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A payment as it is answered."""

    payment: Payment
    references: tuple[ProvidersReference, ...]
    refunds: tuple[Refund, ...] = ()


class Listings:
    """The payments of one organization at a time. Another organization's look like missing ones."""

    def __init__(self, shards: Shards, references: References) -> None:
        self._shards = shards
        self._references = references

    async def get(self, organization_id: str, payment_id: str) -> Shown:
        """Return a payment with all that belongs to it. Raises NotFound."""
        async with self._shards.of(organization_id).raw_connection() as connection:
            payment = await store.find(connection, organization_id, payment_id)
            if payment is None:
                raise NotFound(resource_type="payment", resource_name=payment_id)
            refunds = await refund_store.find_refunds(connection, organization_id, payment_id)
        references = await self._references.of_payments(organization_id, [payment_id])
        return Shown(payment, tuple(references[payment_id]), refunds)

    async def find(self, reference: ProvidersReference) -> Shown:
        """Return the payment that a provider's object belongs to. Raises NotFound."""
        claim = (await self._references.find([reference])).get(reference)
        if claim is None:
            raise NotFound(resource_type="payment", resource_name=reference.reference.external_id)
        return await self.get(claim.organization_id, claim.payment_id)

    async def page(
        self, organization_id: str, wanted: Filter, reference: ProvidersReference | None, size: int, page_token: str
    ) -> tuple[list[Shown], str]:
        """Return a page of payments, the latest first, and the token of the next one."""
        fingerprint = f"payments/{organization_id}/{wanted}/{reference}"
        before = id_in_token(page_token, fingerprint)
        size = page_size(size)
        if reference is not None:
            narrowed = await self._narrowed(organization_id, wanted, reference)
            if narrowed is None:
                return [], ""
            wanted = narrowed
        scan = size if wanted.is_empty else max(size, _SCAN_MIN)
        async with self._shards.of(organization_id).raw_connection() as connection:
            rows = await store.before(connection, organization_id, wanted, before, scan)
        found = [row for row in rows if wanted.takes(row)]
        page = found[:size]
        last = page[-1] if len(found) > size else rows[-1] if len(rows) == scan else None
        references = await self._references.of_payments(organization_id, [one.payment_id for one in page])
        shown = [Shown(one, tuple(references[one.payment_id])) for one in page]
        return shown, "" if last is None else encode_page_token(last.payment_id, fingerprint=fingerprint)

    async def _narrowed(self, organization_id: str, wanted: Filter, reference: ProvidersReference) -> Filter | None:
        """Return the filter with the payments of a reference; None where there is none."""
        key = str(reference)
        if reference.reference.kind is ReferenceKind.SUBSCRIPTION:
            return replace(wanted, external_subscription=key)
        if reference.reference.kind is ReferenceKind.CUSTOMER:
            return replace(wanted, external_customer=key)
        claim = (await self._references.find([reference])).get(reference)
        if claim is None or claim.organization_id != organization_id:
            return None
        return replace(wanted, payment_id=claim.payment_id)
