"""Where two tables differ, by the digests of their rows."""

from libs.common.integrity.domain import Digests

_BUCKET_DIGITS = 4


class Differences:
    """The digests of two tables together, in buckets of organizations: equal rows leave nothing in a bucket.

    Its memory is bounded whatever there is: organizations are told apart by the last 16 bits of their ids.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, int]] = {}

    def add(self, sign: int, digests: Digests) -> None:
        """Add digests of rows of the first table, with sign 1, or of the second, with sign -1; the order is free."""
        for organization_id, rows, digest in digests:
            bucket = organization_id[-_BUCKET_DIGITS:]
            count, before = self._sums.get(bucket, (0, 0))
            self._sums[bucket] = (count + sign * rows, before ^ digest)

    def exist(self) -> bool:
        """Tell whether anything differs of what was added so far."""
        return any(count or digest for count, digest in self._sums.values())

    def may_be_in(self, organization_id: str) -> bool:
        """Tell whether the rows of an organization may differ: those of its bucket do."""
        return self._sums.get(organization_id[-_BUCKET_DIGITS:], (0, 0)) != (0, 0)
