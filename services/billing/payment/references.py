"""Which payment each object of a provider belongs to, over the installation.

A reference is claimed before its payment is stored. A claim whose payment is not stored, because the process died in
between, is found by whoever tries again, who then stores the payment under that id.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from libs.common.database import Database
from services.billing.payment.provider import Reference, ReferenceKind

OURS: Final = "tollhouse"
"""The provider of references that are our own: those of checkouts."""


@dataclass(frozen=True, slots=True, order=True)
class ProvidersReference:
    """A reference of one provider."""

    provider: str
    reference: Reference

    def __str__(self) -> str:
        return f"{self.provider}/{self.reference.external_id}"


@dataclass(frozen=True, slots=True)
class Claim:
    """The payment that a reference belongs to."""

    organization_id: str
    payment_id: str


# By primary key, one probe for each.
_FIND: Final = """
    SELECT r.provider, r.kind, r.external_id, r.organization_id::text, r.payment_id::text
    FROM unnest($1::text[], $2::text[], $3::text[]) AS k (provider, kind, external_id)
    JOIN payment_references r
        ON r.provider = k.provider AND r.kind = k.kind AND r.external_id = k.external_id
"""

# In the order of the keys, so that two that claim the same ones do not wait for each other in turn.
_CLAIM: Final = """
    INSERT INTO payment_references (provider, kind, external_id, organization_id, payment_id, create_time)
    SELECT k.provider, k.kind, k.external_id, $4::uuid, $5::uuid, $6
    FROM unnest($1::text[], $2::text[], $3::text[]) AS k (provider, kind, external_id)
    ON CONFLICT DO NOTHING
"""

# A range of the index by payment for each.
_OF_PAYMENTS: Final = """
    SELECT r.payment_id::text, r.provider, r.kind, r.external_id
    FROM unnest($2::uuid[]) AS k (payment_id)
    CROSS JOIN LATERAL (
        SELECT payment_id, provider, kind, external_id FROM payment_references
        WHERE organization_id = $1::uuid AND payment_id = k.payment_id
        ORDER BY provider, kind, external_id LIMIT 64
    ) AS r
"""

_RELEASE: Final = "DELETE FROM payment_references WHERE organization_id = $1::uuid AND payment_id = $2::uuid"


def of_checkout(checkout_id: str) -> ProvidersReference:
    """Return our own reference of a checkout."""
    return ProvidersReference(OURS, Reference(ReferenceKind.CHECKOUT, checkout_id))


class References:
    """Finds and claims references. They are in billing's own schema."""

    def __init__(self, platform: Database) -> None:
        self._platform = platform

    async def find(self, wanted: Collection[ProvidersReference]) -> dict[ProvidersReference, Claim]:
        """Return the claims of those references that are claimed."""
        if not wanted:
            return {}
        async with self._platform.raw_connection() as connection:
            rows = await connection.fetch(_FIND, *_columns(sorted(wanted)))
        return {
            ProvidersReference(row[0], Reference(ReferenceKind(row[1]), row[2])): Claim(row[3], row[4]) for row in rows
        }

    async def claim(
        self, wanted: Collection[ProvidersReference], claim: Claim, now: datetime
    ) -> dict[ProvidersReference, Claim]:
        """Claim references, and return those that another claim has. A claim that is there already stays."""
        if not wanted:
            return {}
        async with self._platform.raw_connection() as connection:
            await connection.execute(_CLAIM, *_columns(sorted(wanted)), claim.organization_id, claim.payment_id, now)
        found = await self.find(wanted)
        return {reference: found[reference] for reference in wanted if found[reference] != claim}

    async def of_payments(
        self, organization_id: str, payment_ids: Sequence[str]
    ) -> dict[str, list[ProvidersReference]]:
        """Return the references of payments, by their ids, at most 64 of each; without our own."""
        if not payment_ids:
            return {}
        async with self._platform.raw_connection() as connection:
            rows = await connection.fetch(_OF_PAYMENTS, organization_id, list(payment_ids))
        found: dict[str, list[ProvidersReference]] = {payment_id: [] for payment_id in payment_ids}
        for payment_id, provider, kind, external_id in rows:
            if provider != OURS:
                found[payment_id].append(ProvidersReference(provider, Reference(ReferenceKind(kind), external_id)))
        return found

    async def release(self, claim: Claim) -> None:
        """Give up the references of a payment that was not stored, and will not be."""
        async with self._platform.raw_connection() as connection:
            await connection.execute(_RELEASE, claim.organization_id, claim.payment_id)


def _columns(references: Sequence[ProvidersReference]) -> tuple[list[str], list[str], list[str]]:
    return (
        [one.provider for one in references],
        [one.reference.kind.value for one in references],
        [one.reference.external_id for one in references],
    )
