"""Columns of rows, as statements that write many rows take them: each as a parameter of its own."""

from collections.abc import Iterator, Sequence
from types import EllipsisType
from typing import Any, Final, NamedTuple

from libs.common.array_text import column_text
from services.metering.tables import TOKEN_CLASSES


class Sent(NamedTuple):
    """A column of usage, sent as an array of `kind`, or as an empty array where every row has the value `absent`."""

    name: str
    kind: str
    absent: int | bool | EllipsisType | None = None


def arrays_of(columns: Sequence[Sent]) -> str:
    """Return the parameters of columns, from the first. Texts are sent as `libs.common.array_text` says."""
    texts = (f"{'text::' if column.kind == 'text' else ''}{column.kind}[]" for column in columns)
    return ", ".join(f"${number}::{kind}" for number, kind in enumerate(texts, start=1))


def sent_columns(sent: Sequence[Sent], rows: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[object]]:
    """Return the columns of rows as `arrays_of` takes them; one without any value is an empty array."""
    for column, values in zip(sent, zip(*rows, strict=True), strict=True):
        if column.kind == "text":
            yield column_text(values)
        else:
            yield () if values.count(column.absent) == len(values) else values


# The columns of one usage, in the order in which they are sent. The cost of an array grows with its elements, and most
# columns are empty in most usage: those are sent as empty arrays, which `unnest` fills with nulls.
ROW: Final = (
    Sent("organization_id", "uuid", ...),
    Sent("operation_id", "text", ...),
    Sent("fingerprint", "bytea", ...),
    Sent("usage_id", "uuid", ...),
    Sent("occur_time", "timestamptz", ...),
    Sent("project_id", "uuid"),
    Sent("user_id", "uuid"),
    Sent("api_key_id", "uuid"),
    Sent("subscription_id", "uuid"),
    Sent("model", "text", ...),
    *(Sent(token_class, "bigint", 0) for token_class in TOKEN_CLASSES),
    Sent("latency_ms", "bigint"),
    Sent("status_code", "int"),
    Sent("error_message", "text"),
    Sent("endpoint", "text"),
    Sent("conversation_id", "text"),
    Sent("labels", "text"),
    Sent("partial", "bool", False),
    Sent("cost", "text"),
    Sent("currency_code", "text"),
    Sent("price_version_id", "uuid"),
    Sent("charge_kind", "text"),
    Sent("dimension_id", "uuid", ...),
    Sent("quantities", "text"),
    Sent("items", "bigint"),
    Sent("provider_cost", "text"),
    Sent("provider_currency_code", "text"),
    Sent("rate_hours", "text"),
    Sent("stated", "bool", False),
    Sent("lease_id", "text"),
    # Arrays as text: an array of arrays would have to have as many elements in each row.
    Sent("counters", "text"),
    Sent("counted", "text"),
)
# What is recorded is sent in the same way, but each list of counters once, as elements of one array: usages of a caller
# have it in common. With ten counters a usage that is 1.2 µs of CPU in Postgres instead of 6.9 with a text for each.
_PLACES: Final = (Sent("first_counter", "int"), Sent("last_counter", "int"))
RECORDED_ROW: Final = (*(column for column in ROW if column.name != "counters"), *_PLACES)
