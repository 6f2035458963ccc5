"""Digests of charges: the SQL that computes them, and putting together those of parts.

`tollhouse.common.v1.ChargeDigest` states the rule. Two services compare what they store by it, so it may change only
together with a new field that says which rule was used.
"""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from libs.common.amount import render_amount
from libs.common.errors import FieldViolation, InvalidArgument
from tollhouse.common.v1 import digest_pb2 as pb

BUCKETS_MAX: Final = 65_536
"""How many buckets one request may have: those of all its organizations together."""
_MESSAGE_MAX: Final = 1_000


class PartDigest(NamedTuple):
    """The digest of some charges of one organization, bucket and currency."""

    organization_id: str
    bucket: int
    currency_code: str
    charge_count: int
    total: Decimal
    digest: int


def bucket_sql(operation_id: str, bucket_count: str) -> str:
    """Return the SQL expression for the bucket of an operation."""
    return f"(hashtextextended({operation_id}, 0) & ({bucket_count}::bigint - 1))::int"


def digest_sql(operation_id: str, amount: str) -> str:
    """Return the SQL aggregate over charges whose amounts are of type numeric(28, 9): such text has nine digits."""
    return f"bit_xor(hashtextextended({operation_id} || ' ' || {amount}::text, 0))"


def check_buckets(bucket_count: int, organizations: int) -> None:
    """Check how a request divides charges.

    Raises:
        InvalidArgument: the number is no power of two, or the organizations have too many buckets together.
    """
    if not is_bucket_count(bucket_count):
        raise InvalidArgument([FieldViolation("bucket_count", "must be a power of two")])
    if bucket_count * organizations > BUCKETS_MAX:
        rule = f"must be at most {BUCKETS_MAX} divided by the number of organizations"
        raise InvalidArgument([FieldViolation("bucket_count", rule)])


def is_bucket_count(number: int) -> bool:
    """Tell whether charges can be divided into so many buckets."""
    return 0 < number <= BUCKETS_MAX and number & (number - 1) == 0


class Digests:
    """Digests of whole organizations, put together from those of parts."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, int, str], tuple[int, Decimal, int]] = {}
        self._texts: dict[str, str] = {}

    def add(self, parts: Iterable[PartDigest]) -> None:
        """Add the digests of further charges; their order makes no difference."""
        for part in parts:
            # Every row brings a text of its own; one for each organization is kept.
            organization_id = self._texts.setdefault(part.organization_id, part.organization_id)
            key = organization_id, part.bucket, self._texts.setdefault(part.currency_code, part.currency_code)
            count, total, digest = self._sums.get(key, (0, Decimal(0), 0))
            self._sums[key] = count + part.charge_count, total + part.total, digest ^ part.digest

    def messages(self) -> Iterator[Sequence[pb.ChargeDigest]]:
        """Yield the digests, organization by organization, in portions for one message each."""
        keys = sorted(self._sums)
        for start in range(0, len(keys), _MESSAGE_MAX):
            yield [self._message(key) for key in keys[start : start + _MESSAGE_MAX]]

    def _message(self, key: tuple[str, int, str]) -> pb.ChargeDigest:
        organization_id, bucket, currency_code = key
        count, total, digest = self._sums[key]
        return pb.ChargeDigest(
            organization_id=organization_id,
            bucket=bucket,
            charge_count=count,
            total=render_amount(currency_code, total),
            digest=digest,
        )
