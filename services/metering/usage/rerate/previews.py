"""Says what re-rating would do, page by page, and changes nothing."""

import time
from collections.abc import Sequence
from itertools import takewhile
from typing import Final, NamedTuple

from libs.common.errors import NotFound
from libs.common.ids import is_id
from libs.common.pages import decode_page_token, encode_page_token, foreign_token
from libs.common.shards import Shards
from libs.common.timestamps import time_of_text, time_text
from services.metering.clients.organizations import Organizations
from services.metering.errors import OrganizationNotFound
from services.metering.model.catalogue import Catalogue
from services.metering.model.domain import PriceVersion
from services.metering.usage.domain import Work
from services.metering.usage.dropped_store import refuse_dropped_range
from services.metering.usage.rerate import store
from services.metering.usage.rerate.domain import (
    NO_DIGEST,
    PriceOf,
    Scope,
    Seen,
    Sums,
    Verdict,
    digest_of,
    digests_added,
    judged,
)
from services.metering.usage.rerate.store import Place
from services.metering.usage_errors import PriceOfAnotherCurrency, PriceOfAnotherModel

LOOKED_AT_MAX: Final = 20_000
"""How many usages a page looks at."""
_SLICE_MAX: Final = 500
_LOOKS_MAX_S: Final = 3.0
"""After how long a page ends, too."""

Key = tuple[str, str, str]
"""Organization, model and currency; the last is empty for usage that waits for a price."""


class Page(NamedTuple):
    """A page of what would become of usage."""

    sums: dict[Key, Sums]
    digest: str
    """The digest of what would change on this page and those before it."""
    next_page_token: str


class Previews:
    """Looks what re-rating would do."""

    def __init__(self, shards: Shards, catalogue: Catalogue, organizations: Organizations) -> None:
        self._shards = shards
        self._catalogue = catalogue
        self._organizations = organizations

    async def resolved(self, scope: Scope) -> Scope:
        """Return a scope with what its price version says about it.

        Raises:
            OrganizationNotFound: an organization does not exist.
            NotFound: a price version does not exist, or is for other organizations alone.
            PriceOfAnotherModel: the price version is for none of the models.
            PriceOfAnotherCurrency: the price version is in another currency than the one it replaces.
            UsageMonthDropped: usage of the range was dropped, so it cannot be re-rated.
        """
        for unknown in await self._organizations.find_unknown(scope.organization_ids):
            raise OrganizationNotFound(organization_id=unknown)
        for organization_id in scope.organization_ids or (None,):
            database = self._shards[0] if organization_id is None else self._shards.of(organization_id)
            async with database.raw_connection() as connection:
                await refuse_dropped_range(connection, organization_id, scope.start_time, scope.end_time)
        return await self.narrowed(scope)

    async def narrowed(self, scope: Scope) -> Scope:
        """Return the same for organizations that exist."""
        await self._catalogue.refresh()
        chosen = await self._version(scope.price_version_id)
        current = await self._version(scope.current_price_version_id)
        if chosen is None:
            return scope
        owner = chosen.organization_id
        if owner is not None and scope.organization_ids and owner not in scope.organization_ids:
            raise NotFound(resource_type="price version", resource_name=chosen.price_version_id)
        if scope.models and chosen.model_id not in scope.models:
            raise PriceOfAnotherModel(price_version_id=chosen.price_version_id, model_id=chosen.model_id)
        if current is not None and current.card.currency_code != chosen.card.currency_code:
            raise PriceOfAnotherCurrency(
                price_version_id=chosen.price_version_id,
                currency_code=chosen.card.currency_code,
                charged_currency_code=current.card.currency_code,
            )
        organization_ids = scope.organization_ids if owner is None else [owner]
        return scope._replace(organization_ids=organization_ids, models=[chosen.model_id])

    def price_of(self, scope: Scope) -> PriceOf:
        """Return what gives work its price version in a scope."""
        if scope.price_version_id is not None:
            chosen = self._catalogue.version(scope.price_version_id)
            return lambda work: chosen

        def in_force(work: Work) -> PriceVersion | None:
            return self._catalogue.price(work.model, work.organization_id, work.occur_time)

        return in_force

    def judge(self, scope: Scope, seen: Sequence[Seen]) -> list[tuple[Seen, Verdict]]:
        """Return usages with what would become of each."""
        price_of, units = self.price_of(scope), self._catalogue.units
        return [(one, judged(one, price_of, units)) for one in seen]

    async def page(self, scope: Scope, size: int, page_token: str, fingerprint: str) -> Page:
        """Return a page of what re-rating would do.

        Raises:
            InvalidArgument: the token is not one of ours, or belongs to another request.
        """
        await self._catalogue.refresh()
        number, place, digest = self._begin(scope, page_token, fingerprint)
        sums: dict[Key, Sums] = {}
        looked_at = 0
        ends_s = time.monotonic() + _LOOKS_MAX_S
        while number < len(self._shards):
            ids = organizations_of_shard(self._shards, scope, number)
            async with self._shards[number].raw_connection() as connection:
                found = await store.next_slice(connection, scope, ids, place, _SLICE_MAX)
                seen = (await store.find_seen(connection, scope, found, _SLICE_MAX))[0] if found else []
            taken = list(takewhile(lambda one: _add(sums, one, size), self.judge(scope, seen)))
            digest = digests_added(digest, digest_of(taken))
            looked_at += _SLICE_MAX
            if found is not None and len(taken) < len(seen):
                place = _place_of(taken[-1][0]) if taken else found.after
                return Page(sums, digest, _token(number, place, digest, fingerprint))
            if found is None:
                number, place = number + 1, store.first_place(scope)
                continue
            place = found.until
            if looked_at >= LOOKED_AT_MAX or time.monotonic() > ends_s:
                return Page(sums, digest, _token(number, place, digest, fingerprint))
        return Page(sums, digest, "")

    async def _version(self, price_version_id: str | None) -> PriceVersion | None:
        if price_version_id is None:
            return None
        if self._catalogue.version(price_version_id) is None:
            await self._catalogue.refresh_for_unknown()
        version = self._catalogue.version(price_version_id)
        if version is None:
            raise NotFound(resource_type="price version", resource_name=price_version_id)
        return version

    def _begin(self, scope: Scope, page_token: str, fingerprint: str) -> tuple[int, Place, str]:
        if not page_token:
            return 0, store.first_place(scope), NO_DIGEST
        parts = decode_page_token(page_token, fingerprint)
        try:
            number, organization_id, moment, usage_id, digest = parts
            known = is_id(organization_id) and is_id(usage_id) and len(digest) == len(NO_DIGEST)
            place = Place(organization_id, time_of_text(moment), usage_id)
            int(digest, 16)
        except ValueError:
            raise foreign_token() from None
        if not known or not number.isascii() or not number.isdigit() or len(number) > 3:
            raise foreign_token()
        return int(number), place, digest


def organizations_of_shard(shards: Shards, scope: Scope, number: int) -> list[str]:
    """Return the organizations that a scope names in a shard, in the order of their ids."""
    return sorted(one for one in scope.organization_ids if shards.number_of(one) == number)


def _add(sums: dict[Key, Sums], one: tuple[Seen, Verdict], size: int) -> bool:
    """Add a usage to the sums, if there is room for it; tell whether there was."""
    seen, verdict = one
    key = seen.work.organization_id, seen.work.model, "" if seen.cost is None else seen.cost.currency_code
    if key not in sums:
        if len(sums) >= size:
            return False
        sums[key] = Sums()
    sums[key].add_verdict(seen, verdict)
    return True


def _place_of(seen: Seen) -> Place:
    return Place(seen.work.organization_id, seen.recorded_time, seen.usage_id)


def _token(number: int, place: Place, digest: str, fingerprint: str) -> str:
    key = str(number), place.organization_id, time_text(place.occur_time), place.usage_id, digest
    return encode_page_token(*key, fingerprint=fingerprint)
