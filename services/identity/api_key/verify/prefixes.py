"""The prefixes of imported secrets, as far as this process knows them.

A secret made here carries a checksum, so a made-up one is rejected without a database read. Imported secrets have none:
only those that begin with one of the few imported prefixes are looked up.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from libs.common.errors import Unavailable
from services.identity.api_key.secret import OWN_PREFIX
from services.identity.errors import RevisionNotReached

PREFIXES_MAX: Final = 32
_NEWS_WITHIN_S: Final = 1.5
"""Longer than the interval at which the feed reads."""


def may_be_imported(prefix: str) -> bool:
    """Return whether no secret made here can begin with the prefix."""
    return not prefix.startswith(OWN_PREFIX) and not OWN_PREFIX.startswith(prefix)


class ImportedPrefixes:
    """The prefixes the change feed has delivered."""

    def __init__(self) -> None:
        self._prefixes: tuple[str, ...] = ()
        self._seen_revision = 0
        self._news = asyncio.Event()

    def learn(self, prefixes: Iterable[str], *, seen_revision: int) -> None:
        """Replace the prefixes by all that exist at a revision."""
        self._prefixes = tuple(prefixes)
        self._seen_revision = seen_revision
        self._news.set()
        self._news = asyncio.Event()

    def begin(self, key: str) -> bool:
        """Return whether the key begins with an imported prefix."""
        return key.startswith(self._prefixes)

    def are_known_at(self, min_revision: int) -> bool:
        """Return whether every prefix up to a revision is known; False until the feed has delivered once."""
        return 0 < self._seen_revision >= min_revision

    async def reach(self, min_revision: int) -> None:
        """Wait until every prefix up to a revision is known.

        Raises:
            RevisionNotReached: the news come, and tell of no such revision.
            Unavailable: no news come.
        """
        news = self._news
        try:
            async with asyncio.timeout(_NEWS_WITHIN_S):
                while not self.are_known_at(min_revision):
                    await self._news.wait()
        except TimeoutError:
            if news.is_set():
                raise RevisionNotReached(min_revision=min_revision, revision=self._seen_revision) from None
            raise Unavailable(dependency="change feed") from None
