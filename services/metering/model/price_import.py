"""The use case of importing a price list. Entries are compared and stored while the catalogue is locked."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog

from libs.common.audit.recording import PLATFORM, Changed, record_event
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.ids import new_id
from services.metering.model import store
from services.metering.model.catalogue import Catalogue
from services.metering.model.domain import Model, PriceVersion
from services.metering.model.price_list import ListedModel, PriceList, SkippedEntry
from services.metering.model.rate_changes import RateChange, rate_changes, same_prices
from services.metering.model.units import Units

_log = structlog.get_logger("price import")
_BATCH_ENTRIES: Final = 200

IMPORTED: Final = "IMPORTED"
UNCHANGED: Final = "UNCHANGED"
SKIPPED: Final = "SKIPPED"
KEPT: Final = "KEPT"


@dataclass(frozen=True, slots=True)
class ImportOutcome:
    """The result for one entry of a price list."""

    model_id: str
    result: str
    reason: str = ""
    price_version_id: str = ""
    warnings: Sequence[str] = ()
    ignored_price_keys: Sequence[str] = ()
    changes: Sequence[RateChange] = ()
    """What the import would change; only where nothing is to be changed."""


@dataclass(frozen=True, slots=True)
class _Import:
    """The parameters of one import."""

    source: str
    effective_time: datetime
    now: datetime
    revision: int
    validate_only: bool


@dataclass(frozen=True, slots=True)
class _Known:
    """What the catalogue has of the models of a batch."""

    prices: Mapping[str, PriceVersion]
    set_by_hand: Set[str]


def _ignore(_decided: int) -> None:
    """Report the progress to nobody."""


class PriceImport:
    """Imports price lists."""

    def __init__(self, database: Database, catalogue: Catalogue, clock: Clock) -> None:
        self._database = database
        self._catalogue = catalogue
        self._clock = clock

    async def units(self) -> Units:
        """Return the units that a list may have rates of."""
        await self._catalogue.refresh_for_unknown()
        return self._catalogue.units

    async def run(
        self,
        entries: PriceList,
        *,
        source: str,
        effective_time: datetime | None,
        validate_only: bool,
        on_progress: Callable[[int], None] = _ignore,
    ) -> list[ImportOutcome]:
        """Add the models of a list that the catalogue does not have, and the prices that differ from those in force.

        A model whose price was set by hand keeps it. The import is one transaction. `on_progress` is called with the
        number of entries done so far.
        """
        now = self._clock.now()
        outcomes: list[ImportOutcome] = []
        async with self._database.transaction() as connection:
            # The lock is taken first, so that prices are compared with everything that other changes have committed.
            revision = await store.take_next_revision(connection)
            work = _Import(source, effective_time or now, now, revision, validate_only)
            for start in range(0, len(entries), _BATCH_ENTRIES):
                outcomes += await _import_batch(connection, entries[start : start + _BATCH_ENTRIES], work)
                on_progress(len(outcomes))
            imported = sum(outcome.result == IMPORTED for outcome in outcomes)
            if validate_only or not imported:
                await connection.rollback()
                return outcomes
            await _record_import(connection, work, imported)
        await self._catalogue.reload()
        return outcomes


async def _import_batch(
    connection: Transaction, entries: Sequence[ListedModel | SkippedEntry], work: _Import
) -> list[ImportOutcome]:
    listed = [entry for entry in entries if isinstance(entry, ListedModel)]
    names = [entry.model_id for entry in listed]
    known = _Known(
        await store.prices_in_force(connection, names, work.effective_time), await store.set_by_hand(connection, names)
    )
    outcomes = [_decide(entry, known, work) for entry in entries]
    if work.validate_only:
        return [replace(outcome, price_version_id="") for outcome in outcomes]
    by_name = {entry.model_id: entry for entry in listed}
    added = [
        (_model(by_name[outcome.model_id], work), _version(by_name[outcome.model_id], outcome.price_version_id, work))
        for outcome in outcomes
        if outcome.result == IMPORTED
    ]
    failed = await _store(connection, added, work.revision)
    return [
        ImportOutcome(outcome.model_id, SKIPPED, failed[outcome.model_id]) if outcome.model_id in failed else outcome
        for outcome in outcomes
    ]


def _decide(entry: ListedModel | SkippedEntry, known: _Known, work: _Import) -> ImportOutcome:
    if isinstance(entry, SkippedEntry):
        return ImportOutcome(entry.model_id, SKIPPED, entry.reason)
    held = known.prices.get(entry.model_id)
    changes: Sequence[RateChange] = ()
    if held is not None and same_prices(held.card, entry.card):
        result, price_version_id = UNCHANGED, held.price_version_id
    elif entry.model_id in known.set_by_hand:
        result, price_version_id = KEPT, "" if held is None else held.price_version_id
    elif held is not None and held.effective_time == work.effective_time:
        return ImportOutcome(entry.model_id, SKIPPED, "another price takes effect at the same moment")
    else:
        result, price_version_id = IMPORTED, new_id()
        if work.validate_only:
            changes = rate_changes(None if held is None else held.card, entry.card)
    return ImportOutcome(
        entry.model_id, result, "", price_version_id, entry.warnings, entry.ignored_price_keys, changes
    )


async def _store(connection: Transaction, added: Sequence[tuple[Model, PriceVersion]], revision: int) -> dict[str, str]:
    """Store a batch; return the models that could not be stored, with the reason.

    If the database rejects the batch, each entry is stored alone, so that one entry never fails another.
    """
    try:
        await store.add_priced_models(connection, added, revision)
    except store.RowsRefused as refused:
        if len(added) == 1:
            model_id = added[0][0].model_id
            _log.error("entry of a price list cannot be stored", model_id=model_id, exc_info=refused)
            return {model_id: "cannot be stored; the log of the service says why"}
        failed: dict[str, str] = {}
        for pair in added:
            failed |= await _store(connection, [pair], revision)
        return failed
    return {}


async def _record_import(connection: Transaction, work: _Import, imported: int) -> None:
    """Record one event for the whole list: each new price version has its source and time."""
    await record_event(
        connection,
        now=work.now,
        organization_id=PLATFORM,
        resource_type="price_list",
        resource_id=work.source,
        changed=(
            Changed("imported_count", after=str(imported)),
            Changed("effective_time", after=work.effective_time.isoformat()),
        ),
    )


def _version(entry: ListedModel, price_version_id: str, work: _Import) -> PriceVersion:
    return PriceVersion(
        price_version_id=price_version_id,
        model_id=entry.model_id,
        organization_id=None,
        card=entry.card,
        effective_time=work.effective_time,
        create_time=work.now,
        source=work.source,
    )


def _model(entry: ListedModel, work: _Import) -> Model:
    return Model(
        model_id=entry.model_id,
        provider=entry.provider,
        display_name=entry.display_name,
        description=entry.description,
        capabilities=entry.capabilities,
        context_length=entry.context_length,
        max_output_tokens=entry.max_output_tokens,
        active=True,
        metadata=entry.metadata,
        revision=work.revision,
        create_time=work.now,
        update_time=work.now,
    )
