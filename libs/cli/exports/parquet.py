"""Parquet of an export: what was received as CSV, written again with types, a part at a time.

It is done here and not in metering: a Parquet file has its index at its end, so it is no stream that can go on after a
break, and pyarrow takes 150 MB that no service should carry. It comes with the extra `export`.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Final

from libs.cli.failures import CommandFailed

_BLOCK: Final = 1 << 20
"""How many bytes of CSV are read at once, more than any row has. pyarrow reads some of these ahead."""
_BLOCKS_OF_A_GROUP: Final = 16
"""How many of these become one row group."""
_WHOLE: Final = (
    *("request_count", "correction_number", "items", "status_code", "latency_ms"),
    *("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"),
    *("audio_input_tokens", "audio_output_tokens", "image_input_tokens"),
)
_AMOUNTS: Final = ("cost", "provider_cost", "charged_amount")
_TIMES: Final = ("occur_time", "create_time")
_FLAGS: Final = ("stated", "partial")
_ROWS: Final = 10_000


def _arrow() -> Any:
    try:
        for part in ("csv", "parquet"):
            import_module(f"pyarrow.{part}")
        return import_module("pyarrow")
    except ImportError:
        raise CommandFailed("Parquet needs the extra `export`: pip install 'tollhouse[export]'.") from None


def require_parquet() -> None:
    """Return where Parquet can be written and read.

    Raises:
        CommandFailed: pyarrow is not installed.
    """
    _arrow()


def write_parquet(source: Path, target: Path) -> None:
    """Write a CSV file with raw text as Parquet; each part of it becomes a row group."""
    arrow = _arrow()
    kinds = {
        **dict.fromkeys(_WHOLE, arrow.int64()),
        **dict.fromkeys(_AMOUNTS, arrow.decimal128(38, 9)),
        **dict.fromkeys(_TIMES, arrow.timestamp("us", "UTC")),
        **dict.fromkeys(_FLAGS, arrow.bool_()),
    }
    with source.open("rb") as opened:
        names = opened.readline().decode("utf-8-sig").strip().split(",")
    kinds = {name: kinds.get(name, arrow.string()) for name in names}
    schema = arrow.schema(list(kinds.items()))
    with arrow.parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        batches = _batches(arrow, source, kinds)
        # Not `write_batch`, which keeps what is written in memory until a row group has a million rows.
        while group := list(islice(batches, _BLOCKS_OF_A_GROUP)):
            writer.write_table(arrow.Table.from_batches(group))


def _batches(arrow: Any, source: Path, kinds: Mapping[str, Any]) -> Iterator[Any]:
    with source.open("rb") as opened:
        opened.readline()
        if not opened.read(1):
            return
    convert = arrow.csv.ConvertOptions(
        column_types=kinds, null_values=[""], true_values=["true"], false_values=["false"], strings_can_be_null=True
    )
    read = arrow.csv.ReadOptions(block_size=_BLOCK)
    parse = arrow.csv.ParseOptions(newlines_in_values=True)
    yield from arrow.csv.open_csv(source, read_options=read, parse_options=parse, convert_options=convert)


def read_parquet(source: Path) -> Iterator[Mapping[str, object]]:
    """Yield the rows of a Parquet file."""
    arrow = _arrow()
    with arrow.parquet.ParquetFile(source) as opened:
        for batch in opened.iter_batches(batch_size=_ROWS):
            yield from batch.to_pylist()
