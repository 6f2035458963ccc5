"""The outcomes of an import as messages."""

from collections.abc import Sequence
from typing import Final

from services.metering.model.price_import import IMPORTED, SKIPPED, UNCHANGED, ImportOutcome
from services.metering.model.price_list import ListedModel, PriceList
from tollhouse.metering.v1 import model_pb2 as pb

# The size of the price version's id, the result, and the tags and lengths of the fields.
_OUTCOME_BYTES: Final = 64
_TEXT_BYTES: Final = 4


def render_outcome(outcome: ImportOutcome) -> pb.ImportOutcome:
    return pb.ImportOutcome(
        model_id=outcome.model_id,
        result=pb.ImportResult.Value(f"IMPORT_RESULT_{outcome.result}"),
        reason=outcome.reason,
        price_version_id=outcome.price_version_id,
        warnings=outcome.warnings,
        ignored_price_keys=outcome.ignored_price_keys,
    )


def summary_of(outcomes: Sequence[ImportOutcome]) -> pb.ImportSummary:
    counts = {
        result: sum(outcome.result == result for outcome in outcomes) for result in (IMPORTED, UNCHANGED, SKIPPED)
    }
    return pb.ImportSummary(
        imported_count=counts[IMPORTED], unchanged_count=counts[UNCHANGED], skipped_count=counts[SKIPPED]
    )


def answer_bytes_max(entries: PriceList) -> int:
    """Return an upper bound of the size of the outcomes of a list as messages."""
    total = 0
    for entry in entries:
        texts: Sequence[str] = [entry.model_id]
        if isinstance(entry, ListedModel):
            texts = [*texts, *entry.warnings, *entry.ignored_price_keys]
        else:
            texts = [*texts, entry.reason]
        total += _OUTCOME_BYTES + sum(_TEXT_BYTES + len(text.encode()) for text in texts)
    return total
