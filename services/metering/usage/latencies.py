"""Percentiles of latencies, from how many calls were in each bucket."""

from collections.abc import Sequence
from typing import Final

from services.metering.tables import LATENCY_BOUNDS_MS

OVER_MS: Final = LATENCY_BOUNDS_MS[-1]
"""What stands for a latency in the last bucket, which has no upper bound: that or more."""


def percentile_ms(buckets: Sequence[int], percent: int) -> int:
    """Return a percentile by the nearest rank; 0 if there is no call.

    The calls of a bucket are taken as evenly spread over it, up to its upper bound. So the result is in the same bucket
    as the latency of the call with that rank.
    """
    rank = -(-percent * sum(buckets) // 100)
    before, lower = 0, 0
    for count, upper in zip(buckets, LATENCY_BOUNDS_MS, strict=False):
        if count and before + count >= rank:
            return lower - (lower - upper) * (rank - before) // count
        before, lower = before + count, upper
    return OVER_MS if rank else 0
