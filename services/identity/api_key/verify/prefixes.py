"""With what imported secrets begin, as this process knows it.

Secrets made here prove by their check that they are worth a look at the database; those of other systems cannot. So the
few beginnings that were imported are known by heart, and whatever begins otherwise is turned away without a look.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from libs.common.errors import Unavailable
from services.identity.api_key.secret import OWN_PREFIX
from services.identity.errors import RevisionNotReached

PREFIXES_MAX: Final = 32
_NEWS_WITHIN_S: Final = 1.5
"""Longer than the feed leaves between two looks."""


def may_be_imported(prefix: str) -> bool:
    """Tell whether a prefix can be told from that of secrets made here."""
    return not prefix.startswith(OWN_PREFIX) and not OWN_PREFIX.startswith(prefix)


class ImportedPrefixes:
    """What the feed of changes has told of prefixes."""

    def __init__(self) -> None:
        self._prefixes: tuple[str, ...] = ()
        self._seen_revision = 0
        self._news = asyncio.Event()

    def learn(self, prefixes: Iterable[str], *, seen_revision: int) -> None:
        """Take in all prefixes there are at a revision."""
        self._prefixes = tuple(prefixes)
        self._seen_revision = seen_revision
        self._news.set()
        self._news = asyncio.Event()

    def begin(self, key: str) -> bool:
        """Tell whether the key begins as an imported secret does."""
        return key.startswith(self._prefixes)

    def are_known_at(self, min_revision: int) -> bool:
        """Tell whether every prefix up to a revision is known; never before the first news."""
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
