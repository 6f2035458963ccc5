"""Anthropic's usage object of messages.

Its counts of input lie side by side: input_tokens includes neither what was read from the cache nor what was written to
it.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tollhouse.metering.v1.provider_usage.pools import CacheLifetime, written_by_lifetime
from tollhouse.metering.v1.provider_usage.reading import Fields, ProviderUsage, Reading, shown

_USUAL_LIFETIME: Final[CacheLifetime] = "5m"
_OWN_ITERATIONS: Final = ("message", "fallback_message")
_COUNTS: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class _Latest:
    """An object as the start of a stream gives it, and as its last message_delta does, whose counts are cumulative."""

    reading: Reading
    start: Fields
    delta: Fields

    def count(self, field: str) -> int | None:
        first, last = self.start.optional_count(field), self.delta.optional_count(field)
        if last is None:
            return first
        if first is not None and last < first:
            reason = f"is {last}, but at the start of the stream it is {first}, and counts only grow"
            self.reading.fault(self.delta.name(field), reason)
        return last

    def required_count(self, field: str) -> int:
        if not self.start.has(field) and not self.delta.has(field):
            self.reading.fault(self.start.name(field), "is missing")
        return self.count(field) or 0

    def part(self, field: str) -> "_Latest":
        return _Latest(self.reading, self.start.part(field), self.delta.part(field))

    def parts(self, field: str) -> Sequence[Fields]:
        first, last = self.start.parts(field), self.delta.parts(field)
        return last or first


def anthropic_messages(
    usage: Mapping[str, object],
    *,
    delta: Mapping[str, object] | None = None,
    cache_write_lifetime: CacheLifetime | None = None,
    ignored_fields: Collection[str] = (),
) -> ProviderUsage:
    """Reads `usage` of a message; of a streamed one, that of message_start and, as `delta`, that of the last
    message_delta.

    Cache writes that no breakdown names are taken to be kept for 5 minutes if there is no breakdown at all. Where it
    names some, as in a stream whose tools wrote more after the start, the object is refused unless
    `cache_write_lifetime` states how long the rest is kept. Compaction is added, which the counts of the message do not
    include. `ignored_fields` are full names of fields, as a refusal gives them, whose numbers are not counts. Raises
    `UsageRefused`.
    """
    reading = Reading("Anthropic message", ignored_fields)
    latest = _Latest(reading, reading.fields_of(usage), reading.fields_of(delta, "delta"))
    written = latest.count("cache_creation_input_tokens")
    creation = latest.part("cache_creation")
    named: dict[CacheLifetime, int | None] = {
        "5m": creation.count("ephemeral_5m_input_tokens"),
        "1h": creation.count("ephemeral_1h_input_tokens"),
    }
    incoming = latest.required_count("input_tokens")
    outgoing = latest.required_count("output_tokens")
    read = latest.count("cache_read_input_tokens") or 0
    thinking = latest.part("output_tokens_details").count("thinking_tokens") or 0
    tools = latest.part("server_tool_use")
    searches, fetches = tools.count("web_search_requests") or 0, tools.count("web_fetch_requests") or 0
    name = "usage.cache_creation_input_tokens"
    writes = written_by_lifetime(reading, name, written, named, _USUAL_LIFETIME, cache_write_lifetime)
    own = dict(zip(_COUNTS, (incoming, sum(writes.values()), read, outgoing), strict=True))
    compaction = _compaction(reading, latest.parts("iterations"), own, cache_write_lifetime)
    reading.refuse_faults()
    reading.expect_at_most("usage.output_tokens_details.thinking_tokens", thinking, "output_tokens", outgoing)
    pools = {
        "input_tokens": incoming,
        "cache_read_tokens": read,
        "output_tokens": outgoing - thinking,
        "reasoning_tokens": thinking,
        "web_searches": searches,
        "web_fetches": fetches,
    }
    return reading.conclude(pools, writes, compaction)


def _compaction(
    reading: Reading, iterations: Sequence[Fields], own: Mapping[str, int], lifetime: CacheLifetime | None
) -> Mapping[str, int]:
    """Returns the pools of compaction, and compares the other iterations with the counts of the message."""
    compaction: Counter[str] = Counter()
    messages: Counter[str] = Counter()
    for iteration in iterations:
        kind = iteration.text("type")
        written, counts = _iteration(reading, iteration, lifetime)
        if kind == "compaction":
            compaction.update(written)
            compaction.update(input_tokens=counts["input_tokens"], output_tokens=counts["output_tokens"])
            compaction.update(cache_read_tokens=counts["cache_read_input_tokens"])
        elif kind in _OWN_ITERATIONS:
            messages.update(counts)
        elif any(counts.values()):
            reading.fault(
                iteration.path,
                f"is of the type {shown(kind)} and has {sum(counts.values())} tokens: those of another model, as an "
                "advisor's, are recorded under that model and left out here",
            )
    if iterations:
        for field in _COUNTS:
            reading.expect_equal(f"usage.{field}", own[field], "the sum of iterations but compaction", messages[field])
    return compaction


def _iteration(
    reading: Reading, iteration: Fields, lifetime: CacheLifetime | None
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    creation = iteration.part("cache_creation")
    named: dict[CacheLifetime, int | None] = {
        "5m": creation.optional_count("ephemeral_5m_input_tokens"),
        "1h": creation.optional_count("ephemeral_1h_input_tokens"),
    }
    counts = {field: iteration.optional_count(field) for field in _COUNTS}
    name = iteration.name("cache_creation_input_tokens")
    written = written_by_lifetime(
        reading, name, counts["cache_creation_input_tokens"], named, _USUAL_LIFETIME, lifetime
    )
    counts["cache_creation_input_tokens"] = sum(written.values())
    return written, {field: number or 0 for field, number in counts.items()}
