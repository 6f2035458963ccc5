"""The part of a statement that changes counters, beside whatever else the statement writes.

Limits are decided and usage is counted in one statement then, with one round trip, where the careful way has six. In a
batch of 100 authorizations under ten limits a call took 62 µs of CPU in Postgres and the driver, and 90 in the careful
way (27 without limits).

A statement sees what was committed when it began, and not what others commit until it has the lock on a counter. Of
that it must not miss some: an authorization the usage of the same operation, such usage the authorization, and a
settlement that what was reserved is given back. All of these change a counter that both have in common, and number
their changes: authorizations in `authorized`, usage without an authorization in `revision`, whatever takes locks first
in both. The statement compares the numbers that concern it, as they are under the lock, with those of its beginning. If
one is another, nothing is written, and the batch goes the careful way. What need not be seen does not disturb:
authorizations wait for each other's locks, and so do settlements, and both add to what they find then.

Counters are changed, and so locked, in the order of their keys, as they are in the careful way. Whether all changes fit
is first asked of what the statement has seen, so that a refusal, which is usual, ends it without an error. Only where
that is another thing under a lock than it was before, after some counters have been changed, must the statement fail.

Each counter is found by its key, whatever the table held when the statement was planned (see `libs.common.by_key`; the
change names the columns of both indexes). Measured side by side, in batches of 16 under ten limits, a call took 490 µs
of CPU in Postgres to begin and to be settled while all counters and authorizations of its organization were read, 372
since they are not, and 339 since no lock is taken before the change.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from libs.common.amount import format_amount
from libs.common.array_text import column_text
from libs.common.by_key import by_key
from libs.common.database import RawConnection
from services.metering.quota.counter_store import Counted, Key

PARAMETERS: Final = 5
"""How many parameters the part has."""


class QuickChange(NamedTuple):
    """By how much a counter changes."""

    used: Decimal
    reserved: Decimal
    maximum: Decimal | None = None
    """What it may have at most afterwards, used and reserved; None where that is any amount."""


def counters_changed(first: int, *, only_if: str, unchanged: str, numbered: str) -> str:
    """Return the part, with its parameters from a number on.

    `only_if` is a condition that is looked at before a counter is changed, `unchanged` compares the numbers of a
    counter `c` with those that were `seen` when the statement began, and `numbered` sets the next ones.

    It defines `changed`, whether all counters were changed (`holds`) and whether any was (`begun`), and `updated`, what
    they have afterwards. A statement that has `begun` and does not hold must fail. Each of the joins needs what is
    before it, so the planner cannot change their order, and the counters are changed in that of the parameters.
    """
    organizations, counters, used, reserved, maxima = (f"${first + number}" for number in range(PARAMETERS))
    key = by_key("d.organization_id", "counter_id", "d.counter_id")
    return f"""seen AS MATERIALIZED (
    SELECT d.place, s.*, coalesce(d.used::numeric, 0) AS more_used, coalesce(d.reserved::numeric, 0) AS more_reserved,
        d.maximum::numeric AS maximum
    FROM (SELECT {only_if} AS holds OFFSET 0) AS at_first
    CROSS JOIN LATERAL unnest(
        CASE WHEN at_first.holds THEN {organizations}::uuid[] END,
        CASE WHEN at_first.holds THEN {counters}::uuid[] END,
        {used}::text::text[], {reserved}::text::text[], {maxima}::text::text[]
    ) WITH ORDINALITY AS d(organization_id, counter_id, used, reserved, maximum, place)
    CROSS JOIN LATERAL (
        SELECT organization_id, counter_id, limit_id, subject, window_start, used, reserved, authorized, revision
        FROM limit_counters WHERE {key}
    ) AS s
), fits AS MATERIALIZED (
    SELECT count(*) = cardinality({counters}::uuid[]) AND bool_and({_fits("seen")}) AS holds FROM seen
), updated AS (
    UPDATE limit_counters c SET used = c.used + seen.more_used, reserved = c.reserved + seen.more_reserved, {numbered}
    FROM fits CROSS JOIN seen
    WHERE fits.holds AND c.organization_id = ANY (ARRAY[seen.organization_id]) AND c.counter_id = seen.counter_id
        AND c.limit_id = seen.limit_id AND c.subject = seen.subject AND c.window_start = seen.window_start
        AND {unchanged} AND {_fits("c")}
    RETURNING seen.place, c.used, c.reserved
), changed AS MATERIALIZED (
    SELECT count(*) = cardinality({counters}::uuid[]) AS holds, count(*) > 0 AS begun FROM updated
)"""  # noqa: S608 -- the numbers of parameters, and conditions of ours.


def _fits(counter: str) -> str:
    return f"(maximum IS NULL OR {counter}.used + {counter}.reserved + more_used + more_reserved <= maximum)"


AFTERWARDS: Final = """
SELECT string_agg(trim_scale(used)::text, ',' ORDER BY place),
    string_agg(trim_scale(reserved)::text, ',' ORDER BY place)
FROM updated
"""
"""What the counters have afterwards, in their order, in one row: a row for each would cost the driver more, and so
would arrays of numbers: 0.53 µs a number, where a text is read in 0.2."""


async def run(connection: RawConnection, statement: str, *parameters: object) -> list[Counted]:
    """Run a statement that ends with `AFTERWARDS`; return what the counters have, nothing where they did not fit."""
    row = await connection.fetchrow(statement, *parameters)
    if row is None or row[0] is None:
        return []
    used, reserved = (map(Decimal, column.split(",")) for column in row)
    return [*map(Counted, used, reserved)]


def columns(changes: Sequence[tuple[Key, QuickChange]]) -> tuple[Sequence[object], ...]:
    """Return the parameters of the part, for changes in the order of their keys. A column of zeros is sent empty."""
    used = [format_amount(change.used) if change.used else None for _, change in changes]
    reserved = [format_amount(change.reserved) if change.reserved else None for _, change in changes]
    maxima = [None if change.maximum is None else str(change.maximum) for _, change in changes]
    return (
        [key[0] for key, _ in changes],
        [key[1] for key, _ in changes],
        *map(column_text, (used, reserved, maxima)),
    )
