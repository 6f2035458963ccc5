"""Organization shards: what belongs to organizations lives in N schemas of equal shape, one of which is an organization's.

Which one follows from the organization's id alone. No statement touches two of them, so that each can be on a machine of
its own.
"""

import hashlib
from collections.abc import Iterator, Sequence

from libs.common.database import Database


def shard_number(organization_id: str, count: int) -> int:
    """Return the number of the shard, from 0, in which an organization is.

    That is the first four bytes of the SHA-256 of the id's text (36 lower-case characters), read as a big-endian
    number, modulo the number of shards.
    """
    digest = hashlib.sha256(organization_id.lower().encode()).digest()
    return int.from_bytes(digest[:4], "big") % count


class Shards(Sequence[Database]):
    """The databases of the shards, by their numbers. They share one pool of connections."""

    def __init__(self, databases: Sequence[Database]) -> None:
        self._databases = tuple(databases)

    def of(self, organization_id: str) -> Database:
        """Return the database in which this organization is."""
        return self._databases[shard_number(organization_id, len(self._databases))]

    def __getitem__(self, number: int) -> Database:  # type: ignore[override]  # slices are not needed.
        return self._databases[number]

    def __iter__(self) -> Iterator[Database]:
        return iter(self._databases)

    def __len__(self) -> int:
        return len(self._databases)
