"""Amazon Bedrock's usage object of Converse and ConverseStream.

inputTokens includes neither what was read from the cache nor what was written to it; totalTokens is the sum of all
four.
"""

from collections.abc import Collection, Mapping
from typing import Final

from tollhouse.metering.v1.provider_usage.pools import CacheLifetime, written_by_lifetime
from tollhouse.metering.v1.provider_usage.reading import ProviderUsage, Reading, shown

_USUAL_LIFETIME: Final[CacheLifetime] = "5m"
_LIFETIMES: Final[Mapping[str, CacheLifetime]] = {"5m": "5m", "1h": "1h"}

# The service sends these two under both names.
_SPELLINGS: Final[Mapping[str, str]] = {
    "cacheReadInputTokenCount": "cacheReadInputTokens",
    "cacheWriteInputTokenCount": "cacheWriteInputTokens",
}


def bedrock_converse(
    usage: Mapping[str, object],
    *,
    cache_write_lifetime: CacheLifetime | None = None,
    ignored_fields: Collection[str] = (),
) -> ProviderUsage:
    """Reads `usage` of a Converse answer, or of the metadata event of a ConverseStream.

    Cache writes are taken to be kept for 5 minutes if there are no cacheDetails. Where they name a part, the object is
    refused unless `cache_write_lifetime` states how long the rest is kept. `ignored_fields` are full names of fields,
    as a refusal gives them, whose numbers are not counts. Raises `UsageRefused`.
    """
    reading = Reading("Bedrock Converse", ignored_fields)
    fields = reading.fields_of(usage, spellings=_SPELLINGS)
    incoming = fields.required_count("inputTokens")
    outgoing = fields.required_count("outputTokens")
    total = fields.required_count("totalTokens")
    read = fields.count("cacheReadInputTokens")
    written = fields.optional_count("cacheWriteInputTokens")
    named: dict[CacheLifetime, int | None] = {}
    for detail in fields.parts("cacheDetails"):
        ttl, tokens = detail.text("ttl"), detail.required_count("inputTokens")
        if ttl in _LIFETIMES:
            named[_LIFETIMES[ttl]] = (named.get(_LIFETIMES[ttl]) or 0) + tokens
        elif tokens:
            reading.fault(detail.name("ttl"), f"is {shown(ttl)}, not 5m or 1h, and its inputTokens are {tokens}")
    name = "usage.cacheWriteInputTokens"
    writes = written_by_lifetime(reading, name, written, named, _USUAL_LIFETIME, cache_write_lifetime)
    reading.refuse_faults()
    parts = "inputTokens + cacheReadInputTokens + cacheWriteInputTokens + outputTokens"
    found = incoming + read + sum(writes.values()) + outgoing
    reading.expect_equal("usage.totalTokens", total, parts, found)
    return reading.conclude({"input_tokens": incoming, "cache_read_tokens": read, "output_tokens": outgoing}, writes)
