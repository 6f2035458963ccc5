"""Usage as rows of columns, as the statements that write it take them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from services.metering.model.units import Quantities, quantity_text
from services.metering.usage.dimensions import dimension_id
from services.metering.usage.domain import Cost, Counts, Recorded
from services.metering.usage.sent import RECORDED_ROW, ROW, sent_columns

_NO_COST: Final = (None,) * len(Cost._fields)


class Rows(NamedTuple):
    """Usages with their columns, which are made before a batch has its turn to be written."""

    recorded: Sequence[Recorded]
    columns: Sequence[Sequence[object]]
    has_units: bool
    """Whether some of it has quantities of other units than the token classes."""


NO_ROWS: Final = Rows((), (), has_units=False)


def rows_of(recorded: Sequence[Recorded]) -> Rows:
    """Return usages with their columns."""
    counters = _Counters()
    rows = [_row(one, *counters.of(one.counts)) for one in recorded]
    columns = [*sent_columns(RECORDED_ROW, rows), counters.all]
    return Rows(recorded, columns, any(one.work.quantities for one in recorded))


class _Counters:
    """The counters of usages, each list of them once."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._places: dict[tuple[str, ...], tuple[int, int]] = {}
        """Of each list, the places of its first and last counter in the array, from 1."""

    def of(self, counts: Counts | None) -> tuple[str | None, int | None, int | None]:
        """Return how much usage counts, and where its counters are; nothing where there are none."""
        if counts is None or not counts.counter_ids:
            return None, None, None
        ids = counts.counter_ids
        places = self._places.get(ids)
        if places is None:
            places = self._places[ids] = len(self.all) + 1, len(self.all) + len(ids)
            self.all += ids
        return _array_text(map(str, counts.values)), *places


def columns_of(recorded: Sequence[Recorded]) -> Iterator[Sequence[object]]:
    """Turn usages into columns, as statements of corrections take them."""
    return sent_columns(ROW, [_row(one, *counts_text(_amounts(one))) for one in recorded])


def _row(recorded: Recorded, *counts: str | int | None) -> tuple[object, ...]:
    work = recorded.work
    cost = recorded.cost or _NO_COST
    return (
        *work[:3],
        recorded.usage_id,
        *work[3:9],
        *work.tokens,
        *work[10:17],
        *cost[:4],
        dimension_id(recorded.dimensions),
        quantities_text(work.quantities) if work.quantities else None,
        work.items,
        *cost[4:],
        work.stated is not None,
        recorded.lease_id,
        *counts,
    )


def _amounts(recorded: Recorded) -> Mapping[str, Decimal]:
    return {} if recorded.counts is None else recorded.counts.amounts


def counts_text(amounts: Mapping[str, Decimal]) -> tuple[str | None, str | None]:
    """Return the counters and the amounts as Postgres writes arrays; nothing where there are none."""
    if not amounts:
        return None, None
    return _array_text(amounts), _array_text(map(str, amounts.values()))


def _array_text(elements: Iterable[str]) -> str:
    return f"{{{','.join(elements)}}}"


def quantities_text(quantities: Quantities) -> str:
    """Return quantities as a JSON object of decimals, sorted by unit."""
    return "{" + ",".join(f'"{unit}":{quantity_text(value)}' for unit, value in sorted(quantities.items())) + "}"
