"""The further dimensions of usage, by which it is grouped and filtered.

Usage has one of few combinations of them, so each combination is stored once for an organization, under an id that is
computed from it. Usage and its hourly sums carry that id. The nil id stands for `PLAIN`, which is not stored.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from libs.common.ids import NIL, id_of_digest
from services.metering.model.rates import STANDARD_TIER
from services.metering.tables import DIMENSIONS

LIVE: Final = "LIVE"
TEST: Final = "TEST"
LABELS: Final = ("usage_type", "language_code", "category", "batch_id")
"""The labels by which usage can be grouped."""
_KNOWN_MAX: Final = 100_000


class Dimensions(NamedTuple):
    """One combination; an empty text stands for none."""

    service_account_id: str = ""
    subscription_id: str = ""
    provider: str = ""
    service_tier: str = STANDARD_TIER
    environment: str = LIVE
    endpoint: str = ""
    usage_type: str = ""
    language_code: str = ""
    category: str = ""
    batch_id: str = ""


assert Dimensions._fields == DIMENSIONS, "the columns of usage_dimensions are these"
PLAIN: Final = Dimensions()


@lru_cache(maxsize=_KNOWN_MAX)
def dimension_id(dimensions: Dimensions) -> str:
    """Return the id of a combination: a UUID of version 8 (RFC 9562) made of a digest of its values."""
    if dimensions == PLAIN:
        return NIL
    text = json.dumps(dimensions, ensure_ascii=False, separators=(",", ":"))
    return id_of_digest(text)


class KnownDimensions:
    """The combinations that this process knows to be stored; the oldest are forgotten, and are then stored again."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key[1] == NIL or key in self._known

    def unknown(self, used: Iterable[tuple[str, Dimensions]]) -> dict[tuple[str, str], Dimensions]:
        """Return what organizations use and is not known to be stored, by organization and id."""
        found: dict[tuple[str, str], Dimensions] = {}
        for organization_id, dimensions in used:
            key = organization_id, dimension_id(dimensions)
            if key not in self:
                found[key] = dimensions
        return found

    def add(self, key: tuple[str, str]) -> None:
        """Note a combination, as its organization and id, when it is committed."""
        self._known[key] = None
        if len(self._known) > _KNOWN_MAX:
            self._known.popitem(last=False)
