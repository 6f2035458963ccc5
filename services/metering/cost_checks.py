# ruff: noqa: S608 -- the statements are put together from names of columns, once; values are bound.
"""The SQL that computes what usage costs, by which checks compare it with what was charged.

It is about a usage or a line of a correction `r`, with its later pricing `p`, its price version `v` and its dimensions
`d`, and `x.exact`, the exact cost in millionths of the currency's unit.
"""

from collections.abc import Sequence
from typing import Final

from services.metering.model.domain import INPUT_CLASSES
from services.metering.model.units import TOKEN_CLASS_UNITS
from services.metering.tables import TOKEN_CLASSES

_PRICES: Final = {
    "input": "v.input",
    "output": "v.output",
    "cache_read": "coalesce(v.cache_read, v.input)",
    "cache_write": "coalesce(v.cache_write, v.input)",
    "reasoning": "coalesce(v.reasoning, v.output)",
    "audio_input": "coalesce(v.audio_input, v.input)",
    "audio_output": "coalesce(v.audio_output, v.output)",
    "image": "coalesce(v.image, v.input)",
}


def _priced(token_classes: Sequence[str]) -> str:
    return " + ".join(f"r.{token_class} * {_PRICES[token_class]}" for token_class in token_classes)


# Most usage has tokens alone, in the standard tier, below the first threshold of its price: its cost follows from the
# columns of its price version. And most of that has tokens of the first two classes alone.
_RARE: Final = TOKEN_CLASSES[2:]
_CONTEXT: Final = " + ".join(f"r.{name}" for name in INPUT_CLASSES)
IS_PLAIN: Final = (
    "(v.is_plain AND r.quantities IS NULL AND coalesce(d.service_tier, 'standard') = 'standard'"
    f" AND (v.context_max IS NULL OR {_CONTEXT} <= v.context_max))"
)
# In millionths of the currency's unit, before rounding.
PLAIN_COST: Final = (
    f"(({_priced(TOKEN_CLASSES[:2])} + CASE WHEN {' | '.join(f'r.{name}' for name in _RARE)} = 0 THEN 0"
    f" ELSE {_priced(_RARE)} END + coalesce(v.per_request, 0) * 1000000) * v.factor)"
)
_CLASSES: Final = ", ".join(f"('{unit}', CAST(r.{name} AS numeric))" for name, unit in TOKEN_CLASS_UNITS.items())
_HOURS: Final = "coalesce(r.rate_hours, p.rate_hours)"
# The rates for all day, and those for the hours that the usage was priced in. Postgres is not asked which hours a time
# is in: its time zone data may differ from that of the process which priced the usage.
_RATES: Final = f"""CASE WHEN {_HOURS} IS NULL THEN v.rate_card->'rates'
            ELSE v.rate_card->'rates' || jsonb_path_query_array(
                v.rate_card, '$.schedule.rates[*] ? (@.hours == $hours)', jsonb_build_object('hours', {_HOURS})) END"""
# Any usage by any card, as `services.metering.model.rates` says it: each unit has the rate of its tier or of any tier,
# for the hours or else for all day, with the greatest threshold below the context, or that of the unit it falls back
# to. Null if a unit has none.
CARD_COST: Final = f"""
    SELECT CASE WHEN count(*) = count(chosen.cost) THEN coalesce(sum(chosen.cost), 0) * v.factor END
    FROM (SELECT {_RATES} AS rates) AS l CROSS JOIN LATERAL (
        SELECT unit_id, quantity, sum(CASE WHEN u.counts_toward_context THEN quantity END) OVER () AS context
        FROM (
            SELECT * FROM (VALUES {_CLASSES}) AS classes (unit_id, quantity) WHERE quantity > 0
            UNION ALL SELECT key, CAST(value AS numeric) FROM jsonb_each_text(r.quantities)
            UNION ALL SELECT 'requests', 1
            WHERE l.rates @? '$[*] ? (@.unit == "requests")'
                AND NOT coalesce(r.quantities ? 'requests', false)
        ) AS used LEFT JOIN units AS u USING (unit_id)
    ) AS used
    LEFT JOIN LATERAL (
        WITH RECURSIVE chain AS (
            SELECT used.unit_id AS unit_id, 0 AS depth
            UNION ALL
            SELECT v.rate_card->'fallbacks'->>chain.unit_id, depth + 1 FROM chain
            WHERE v.rate_card->'fallbacks' ? chain.unit_id AND depth < 200
        )
        SELECT used.quantity * CAST(rate->>'price' AS numeric) * 1000000 / coalesce(CAST(rate->>'per' AS bigint), 1)
            AS cost
        FROM chain JOIN jsonb_array_elements(l.rates) AS listed (rate) ON rate->>'unit' = chain.unit_id
        WHERE coalesce(rate->>'service_tier', 'standard') IN (coalesce(d.service_tier, 'standard'), 'any')
            AND coalesce(CAST(rate->>'above' AS bigint), 0) < greatest(coalesce(used.context, 0), 1)
        ORDER BY chain.depth, rate->>'service_tier' IS NOT DISTINCT FROM 'any', rate->>'hours' IS NULL,
            coalesce(CAST(rate->>'above' AS bigint), 0) DESC
        LIMIT 1
    ) AS chosen ON true
"""
_X: Final = "x.exact"
_COST: Final = "coalesce(r.cost, p.cost)"
# A cost is right if it is less than half a billionth away; at exactly half, if its last digit is even.
IS_OFF: Final = f"""CASE WHEN {_COST} IS NULL OR r.stated THEN false WHEN v.price_version_id IS NULL THEN true
            WHEN coalesce(r.currency_code, p.currency_code) <> v.currency_code OR {_X} IS NULL THEN true
            ELSE abs({_X} - {_COST} * 1000000) >= 0.0005 AND NOT (
                abs({_X} - {_COST} * 1000000) = 0.0005 AND mod({_COST} * 1000000000, 2) = 0)
        END"""
_ROUNDED: Final = (
    f"trim_scale(CASE WHEN {_X} * 1000 - floor({_X} * 1000) = 0.5"
    f" THEN 2 * round(floor({_X} * 1000 + 1) / 2 - 0.25) ELSE round({_X} * 1000) END / 1000000000)"
)
COST_DETAIL: Final = (
    "format('its cost is %s, but its price version gives %s', coalesce(r.cost, p.cost),"
    f" coalesce(CAST({_ROUNDED} AS text), 'none'))"
)

EXACT: Final = f"""
        CROSS JOIN LATERAL (
            SELECT CASE WHEN {IS_PLAIN} THEN {PLAIN_COST} WHEN v.price_version_id IS NOT NULL THEN ({CARD_COST}) END
        ) AS x (exact)"""
