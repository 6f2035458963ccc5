"""The columns of an exported file, and the SQL that makes each of them of a stored usage or a line of a correction.

In the SQL `r` is the usage, or the line of a correction; `p` its later pricing, `d` its dimensions, `c` its correction.
Everything is text but whole numbers: to make Python's decimals and times of it would cost more than all the rest.
"""

from enum import Enum
from typing import Final, NamedTuple

from services.metering.model.units import TOKEN_CLASS_UNITS
from services.metering.tables import TOKEN_CLASSES


class Kind(Enum):
    """What the values of a column are."""

    WORD = "word"
    """Text without anything that has a meaning in CSV or JSON, such as an id or a time."""
    TEXT = "text"
    """Text of callers."""
    NUMBER = "number"
    """A whole number or a decimal."""
    JSON = "json"
    """JSON as text."""
    FLAG = "flag"
    """`true` or `false`."""


class Column(NamedTuple):
    """A column, with its SQL for a usage and for a line of a correction."""

    name: str
    kind: Kind
    usage: str
    line: str
    always: bool = False
    """Whether each row has a value."""

    def sql(self, *, of_lines: bool) -> str:
        return self.line if of_lines else self.usage


_SIGN: Final = "CASE WHEN r.added THEN 1 ELSE -1 END"


def _time(moment: str) -> str:
    return f"replace(({moment} AT TIME ZONE 'UTC')::text, ' ', 'T') || 'Z'"


def _of_both(name: str, kind: Kind, sql: str, *, always: bool = False) -> Column:
    return Column(name, kind, sql, sql, always)


def _id(name: str, *, always: bool = False) -> Column:
    return _of_both(name, Kind.WORD, f"r.{name}::text", always=always)


def _signed(name: str, column: str, *, always: bool = False) -> Column:
    return Column(name, Kind.NUMBER, f"r.{column}", f"{_SIGN} * r.{column}", always)


def _priced(name: str, kind: Kind, cast: str = "") -> Column:
    return Column(name, kind, f"coalesce(r.{name}, p.{name}){cast}", f"r.{name}{cast}")


def _amount(name: str) -> Column:
    return Column(
        name, Kind.NUMBER, f"trim_scale(coalesce(r.{name}, p.{name}))::text", f"trim_scale({_SIGN} * r.{name})::text"
    )


def _dimension(name: str, kind: Kind) -> Column:
    return _of_both(name, kind, f"nullif(d.{name}, '')")


# What is charged under the operation id of the usage itself: its cost, less what parts of its call had captured.
_CHARGED: Final = """CASE WHEN coalesce(r.charge_kind, p.charge_kind) IS NOT NULL
        THEN trim_scale(coalesce(r.cost, p.cost) - coalesce(r.captured_before, 0))::text END"""
_PARTS: Final = """CASE WHEN r.captured_before IS NOT NULL THEN (
        SELECT json_agg(json_build_object('operation_id', s.part_id, 'amount', trim_scale(s.amount),
            'currency_code', s.currency_code) ORDER BY s.part)::text
        FROM settlement_parts s
        WHERE s.organization_id = r.organization_id AND s.operation_id = r.operation_id AND s.part_id IS NOT NULL
    ) END"""
# The movements of a correction stand in the row with what the usage is then, or was before it was voided.
_MOVED: Final = """CASE WHEN r.added OR c.kind = 'VOID' THEN (
        SELECT json_agg(json_build_object('operation_id', m.operation_id,
            'amount', trim_scale(CASE WHEN m.reverses_operation_id IS NULL THEN m.amount ELSE -m.amount END),
            'currency_code', m.currency_code) ORDER BY m.position)::text
        FROM usage_correction_charges m
        WHERE m.organization_id = r.organization_id AND m.usage_id = r.usage_id AND m.number = r.number
    ) END"""

# What a line takes out is below zero, in each of its units.
_QUANTITIES_OF_LINE: Final = """CASE WHEN r.added OR r.quantities IS NULL THEN r.quantities::text ELSE (
        SELECT coalesce(jsonb_object_agg(taken.key, trim_scale(-taken.value::numeric)), '{}')::text
        FROM jsonb_each_text(r.quantities) AS taken
    ) END"""

COLUMNS: Final = (
    _id("organization_id", always=True),
    _of_both("occur_time", Kind.WORD, _time("r.occur_time"), always=True),
    _id("usage_id", always=True),
    _of_both("operation_id", Kind.TEXT, "r.operation_id", always=True),
    Column("request_count", Kind.NUMBER, "1", _SIGN, always=True),
    Column("correction_number", Kind.NUMBER, "NULL::int", "r.number"),
    Column("correction_kind", Kind.WORD, "NULL::text", "c.kind"),
    Column("correction_operation_id", Kind.TEXT, "NULL::text", "c.operation_id"),
    *(_id(name) for name in ("project_id", "user_id", "api_key_id")),
    _dimension("service_account_id", Kind.WORD),
    _id("subscription_id"),
    _of_both("model", Kind.TEXT, "r.model", always=True),
    _dimension("provider", Kind.TEXT),
    _of_both("service_tier", Kind.WORD, "coalesce(d.service_tier, 'standard')", always=True),
    _of_both("environment", Kind.WORD, "coalesce(d.environment, 'LIVE')", always=True),
    *(_signed(TOKEN_CLASS_UNITS[name], name, always=True) for name in TOKEN_CLASSES),
    Column("quantities", Kind.JSON, "r.quantities::text", _QUANTITIES_OF_LINE),
    _signed("items", "items"),
    _amount("cost"),
    _priced("currency_code", Kind.WORD),
    _priced("price_version_id", Kind.WORD, "::text"),
    _of_both("stated", Kind.FLAG, "r.stated::text", always=True),
    _priced("rate_hours", Kind.TEXT),
    _amount("provider_cost"),
    _priced("provider_currency_code", Kind.WORD),
    Column("charged_amount", Kind.NUMBER, _CHARGED, "NULL::text"),
    Column("movements", Kind.JSON, _PARTS, _MOVED),
    _of_both("status_code", Kind.NUMBER, "r.status_code"),
    _of_both("latency_ms", Kind.NUMBER, "r.latency_ms"),
    _of_both("partial", Kind.FLAG, "r.partial::text", always=True),
    _of_both("endpoint", Kind.TEXT, "r.endpoint"),
    _of_both("conversation_id", Kind.TEXT, "r.conversation_id"),
    _of_both("error_message", Kind.TEXT, "r.error_message"),
    _of_both("labels", Kind.JSON, "r.labels::text"),
    _of_both("create_time", Kind.WORD, _time("r.create_time"), always=True),
)
NAMES: Final = tuple(column.name for column in COLUMNS)

COUNTED: Final = (
    "request_count",
    *TOKEN_CLASS_UNITS.values(),
    *("quantities", "cost", "currency_code", "provider_cost", "provider_currency_code", "charged_amount", "movements"),
)
"""The columns that are added up."""
_COUNTED_COLUMNS: Final = tuple(COLUMNS[NAMES.index(name)] for name in COUNTED)
_COUNTED_FIRST: Final = (*_COUNTED_COLUMNS, *(column for column in COLUMNS if column not in _COUNTED_COLUMNS))
PLACES: Final = {column.name: place for place, column in enumerate(_COUNTED_FIRST)}
"""Where a column is in a row of all of them: those that are added up come first."""

# What spreadsheets take for the beginning of a formula, or skip before one.
_DANGEROUS: Final = r"IN ('''', '=', '+', '-', '@', E'\t', E'\r', E'\n')"


def harmless(sql: str) -> str:
    """Return the SQL for text that no spreadsheet takes for a formula: with an apostrophe before it where one would."""
    return f"CASE WHEN left({sql}, 1) {_DANGEROUS} THEN '''' || {sql} ELSE {sql} END"


def all_columns(*, of_lines: bool, guarded: bool) -> str:
    """Return all columns for a SELECT, in the order of PLACES."""
    expressions = []
    for column in _COUNTED_FIRST:
        sql = column.sql(of_lines=of_lines)
        expressions.append(harmless(sql) if guarded and column.kind is Kind.TEXT else sql)
    return ", ".join(expressions)


def counted_columns(*, of_lines: bool) -> str:
    """Return the columns that are added up for a SELECT, in the order of COUNTED."""
    return ", ".join(column.sql(of_lines=of_lines) for column in _COUNTED_COLUMNS)
