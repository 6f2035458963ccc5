"""Which payment each object of a provider belongs to, over the installation.

A reference is claimed before its payment is stored. A claim whose payment is not stored, because the process died in
between, is found by whoever tries again, who then stores the payment under that id.
"""

import asyncio
import contextvars
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from libs.common.database import Database, RawConnection
from services.billing.payment.provider import Reference, ReferenceKind

_TOGETHER_MAX: Final = 200
"""How many callers share a statement."""
OURS: Final = "tollhouse"
"""The provider of references that are our own: those of checkouts."""


@dataclass(frozen=True, slots=True, order=True)
class ProvidersReference:
    """A reference of one provider."""

    provider: str
    reference: Reference

    def __str__(self) -> str:
        return f"{self.provider}/{self.reference.external_id}"


@dataclass(frozen=True, slots=True, order=True)
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
    SELECT k.provider, k.kind, k.external_id, k.organization_id, k.payment_id, $6
    FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::uuid[])
        AS k (provider, kind, external_id, organization_id, payment_id)
    ON CONFLICT DO NOTHING
    RETURNING provider, kind, external_id
"""

# By primary key, one probe for each.
_UNCLAIM: Final = """
    DELETE FROM payment_references AS r
    USING unnest($1::text[], $2::text[], $3::text[]) AS k (provider, kind, external_id)
    WHERE r.provider = k.provider AND r.kind = k.kind AND r.external_id = k.external_id
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


@dataclass(frozen=True, slots=True)
class _Question:
    """References to find, or with `claim` to claim first; and who waits for the answer."""

    wanted: frozenset[ProvidersReference]
    claim: Claim | None
    now: datetime | None
    answered: asyncio.Future[dict[ProvidersReference, Claim]]

    def of(self, found: Mapping[ProvidersReference, Claim]) -> dict[ProvidersReference, Claim]:
        """Return what was found of the references that are wanted."""
        return {key: found[key] for key in self.wanted if key in found}

    def has_all(self, found: Mapping[ProvidersReference, Claim]) -> bool:
        """Tell whether the claim has all references that are wanted."""
        return all(found.get(key) == self.claim for key in self.wanted)


class References:
    """Finds and claims references. They are in billing's own schema.

    Callers that wait at the same time share a statement: many facts are applied side by side, and each asks for a few
    rows by their keys.
    """

    def __init__(self, platform: Database) -> None:
        self._platform = platform
        self._waiting: list[_Question] = []
        self._asking: asyncio.Task[None] | None = None

    async def find(self, wanted: Collection[ProvidersReference]) -> dict[ProvidersReference, Claim]:
        """Return the claims of those references that are claimed."""
        return await self._ask(wanted) if wanted else {}

    async def _ask(
        self, wanted: Collection[ProvidersReference], claim: Claim | None = None, now: datetime | None = None
    ) -> dict[ProvidersReference, Claim]:
        answered: asyncio.Future[dict[ProvidersReference, Claim]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Question(frozenset(wanted), claim, now, answered))
        if self._asking is None:
            # What is asked belongs to no single call: neither its deadline nor its end may end the others' question.
            self._asking = asyncio.create_task(self._answer_all(), context=contextvars.Context())
        return await answered

    async def _answer_all(self) -> None:
        """Answer questions until none waits: those that come meanwhile are the next statement's."""
        try:
            while self._waiting:
                asked, self._waiting = self._waiting[:_TOGETHER_MAX], self._waiting[_TOGETHER_MAX:]
                try:
                    answers = await self._answer(asked)
                except Exception as error:  # noqa: BLE001 -- each caller gets it.
                    for one in asked:
                        if not one.answered.done():
                            one.answered.set_exception(error)
                    continue
                for one, answer in zip(asked, answers, strict=True):
                    if not one.answered.done():
                        one.answered.set_result(answer)
        finally:
            self._asking = None

    async def _answer(self, asked: Sequence[_Question]) -> list[dict[ProvidersReference, Claim]]:
        if not any(one.claim for one in asked):
            async with self._platform.raw_connection() as connection:
                found = await _found(connection, asked)
            return [one.of(found) for one in asked]
        # Another process that wants one of these references waits until the transaction ends.
        async with self._platform.raw_transaction() as connection:
            claimed = await _claimed(connection, asked)
            found = await _found(connection, asked)
            kept = {key for one in asked if one.claim and one.has_all(found) for key in one.wanted}
            given_up = claimed - kept
            if given_up:
                await connection.execute(_UNCLAIM, *_columns(sorted(given_up)))
        left = {key: claim for key, claim in found.items() if key not in given_up}
        return [one.of(found if one.claim else left) for one in asked]

    async def claim(
        self, wanted: Collection[ProvidersReference], claim: Claim, now: datetime
    ) -> set[ProvidersReference]:
        """Claim references, all or none: return those that another claim has. A claim that is there already stays.

        Were some claimed without the others, facts that name both would belong to two payments for ever.
        """
        found = await self._ask(wanted, claim, now) if wanted else {}
        return {reference for reference in wanted if found.get(reference) != claim}

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
                found[payment_id].append(_reference(provider, kind, external_id))
        return found

    async def release(self, claim: Claim) -> None:
        """Give up the references of a payment that was not stored, and will not be."""
        async with self._platform.raw_connection() as connection:
            await connection.execute(_RELEASE, claim.organization_id, claim.payment_id)


async def _claimed(connection: RawConnection, asked: Sequence[_Question]) -> set[ProvidersReference]:
    """Claim each reference that is free; return those that were."""
    claims = sorted((key, one.claim, one.now) for one in asked if one.claim and one.now for key in one.wanted)
    rows = await connection.fetch(
        _CLAIM,
        *_columns([key for key, _, _ in claims]),
        [claim.organization_id for _, claim, _ in claims],
        [claim.payment_id for _, claim, _ in claims],
        claims[0][2],
    )
    return {_reference(*row) for row in rows}


async def _found(connection: RawConnection, asked: Sequence[_Question]) -> dict[ProvidersReference, Claim]:
    wanted = sorted(set[ProvidersReference]().union(*(one.wanted for one in asked)))
    rows = await connection.fetch(_FIND, *_columns(wanted))
    return {_reference(*row[:3]): Claim(*row[3:]) for row in rows}


def _reference(provider: str, kind: str, external_id: str) -> ProvidersReference:
    return ProvidersReference(provider, Reference(ReferenceKind(kind), external_id))


def _columns(references: Sequence[ProvidersReference]) -> tuple[list[str], list[str], list[str]]:
    return (
        [one.provider for one in references],
        [one.reference.kind.value for one in references],
        [one.reference.external_id for one in references],
    )
