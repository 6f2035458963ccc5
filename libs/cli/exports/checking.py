"""Checks a file against its manifest, its manifest against what metering has, and its charges against the ledger.

What is not charged yet is no difference: metering says that it waits. Nor is a charge that a correction gave up. One
that billing refuses is a difference.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from libs.cli.exports.reading import (
    FORMS,
    NOT_EXPORTED,
    PARQUET,
    Movement,
    Sums,
    digest_of,
    movements_of,
    rows_of,
    sums_in,
)
from libs.cli.exports.writing import manifest_of, sha256_of
from libs.cli.failures import CommandFailed
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.progress import Progress
from tollhouse.billing.v1 import charge_pb2 as billing_pb2
from tollhouse.billing.v1 import charge_pb2_grpc as billing_rpc
from tollhouse.metering.v1 import charge_pb2 as metering_pb2
from tollhouse.metering.v1 import charge_pb2_grpc as metering_rpc
from tollhouse.metering.v1 import usage_pb2 as pb
from tollhouse.metering.v1 import usage_pb2_grpc

_NAMED_MAX: Final = 1_000
_PAGE: Final = 5_000
_NOTED_MAX: Final = 1_000
_STREAM_TIMEOUT_S: Final = 3_600.0
_VERSION: Final = 1
_ROWS_AT_ONCE: Final = 5_000


@dataclass(slots=True)
class Findings:
    """What was checked, and what differs."""

    differences: list[str] = field(default_factory=list)
    """The first of them."""
    count: int = 0
    rows: int = 0
    charges: int = 0
    waiting: int = 0
    """Charges that billing has not confirmed yet."""
    recorded: int = 0
    """Usages as they were recorded; 0 for FOCUS."""
    recorded_costs: dict[str, Decimal] = field(default_factory=dict)
    """What they cost, by currency."""

    def differ(self, text: str) -> None:
        self.count += 1
        if len(self.differences) < _NOTED_MAX:
            self.differences.append(text)

    def compare(self, what: str, ours: Mapping[str, object], others: Mapping[str, object]) -> None:
        """Note each value of a manifest, `ours`, that is another in `others`."""
        for name, value in ours.items():
            other = others.get(name)
            if isinstance(value, dict) and isinstance(other, dict):
                self.compare_sums(f"{name} of the manifest", value, what, other)
            elif value != other:
                self.differ(f"{name} of the manifest is {value}, {what} has {other}")

    def compare_sums(self, name: str, ours: Mapping[str, str], what: str, others: Mapping[str, str]) -> None:
        for key in sorted(ours.keys() | others.keys()):
            mine, other = ours.get(key, "0"), others.get(key, "0")
            if mine != other:
                self.differ(f"{name} in {key} are {mine}, {what} has {other}")


def read_manifest(file: Path) -> dict[str, object]:
    """Return the manifest of a file.

    Raises:
        CommandFailed: it has none, or none of this version.
    """
    path = manifest_of(file)
    try:
        manifest = json.loads(path.read_bytes())
        json.dumps(manifest, ensure_ascii=False).encode()  # Without lone surrogates.
        stated = manifest["file"]["size"], manifest["file"]["sha256"], manifest["file_format"], manifest["version"]
        sums_in(manifest, PARQUET)
    except OSError as error:
        raise CommandFailed(f"The manifest {path} cannot be read ({error.strerror}).") from None
    except NOT_EXPORTED:
        raise CommandFailed(f"{path} is not a manifest of an export.") from None
    if stated[2] not in FORMS or stated[3] != _VERSION:
        raise CommandFailed(f"{path} is a manifest of another version: {stated[2]}, {stated[3]}.")
    return dict(manifest)


async def check_export(file: Path, channels: Channels | None, progress: Progress) -> Findings:
    """Check a file, and with channels also metering and the ledger."""
    manifest = read_manifest(file)
    form, found = str(manifest["file_format"]), Findings()
    ledger = None if channels is None else _Ledger(channels, found)
    sums = Sums(form)
    request = request_of(manifest)
    guarded = not request.raw_text and form not in (PARQUET, "jsonl")
    await asyncio.to_thread(_check_bytes, file, manifest, form, found)
    try:
        for row in rows_of(file, form):
            try:
                movements = movements_of(row, form, guarded=guarded)
                sums.add(row, movements)
            except NOT_EXPORTED:
                raise CommandFailed(f"row {sums.rows + 1} of the file is not a row of an export") from None
            if ledger is not None:
                await ledger.expect(movements)
            if sums.rows % _ROWS_AT_ONCE == 0:
                progress.note("rows", sums.rows)
                await asyncio.sleep(0)
    except CommandFailed as error:
        found.differ(str(error))
    found.rows, found.recorded, found.recorded_costs = sums.rows, sums.recorded, sums.recorded_costs
    found.compare("the file", sums_in(manifest, form), sums.as_manifest())
    if ledger is not None and channels is not None:
        await ledger.finish()
        await _check_metering(channels, request, manifest, found, progress)
    return found


def request_of(manifest: Mapping[str, object]) -> pb.ExportUsageRequest:
    """Return the request of which a file is the answer; raises CommandFailed where its manifest has none."""
    try:
        return ParseDict(manifest["request"], pb.ExportUsageRequest())  # type: ignore[arg-type]
    except (KeyError, ParseError, AttributeError, TypeError):
        raise CommandFailed("The manifest has no request of an export.") from None


def _check_bytes(file: Path, manifest: Mapping[str, object], form: str, found: Findings) -> None:
    stated = manifest["file"]
    assert isinstance(stated, dict)
    found.compare("the file", stated, {"size": file.stat().st_size, "sha256": sha256_of(file)})
    if form != PARQUET:
        found.compare("the file", {"digest": manifest.get("digest")}, {"digest": digest_of(file)})


async def _check_metering(
    channels: Channels,
    request: pb.ExportUsageRequest,
    manifest: Mapping[str, object],
    found: Findings,
    progress: Progress,
) -> None:
    """Let metering make the same export again, and compare what it says at the end."""
    stub = usage_pb2_grpc.UsageServiceStub(channels.metering)
    names = ("row_count", "byte_count", "digest", "request_count", "unpriced_count")
    sums = ("quantities", "costs", "provider_costs", "charges")
    async for piece in stub.ExportUsage(request, timeout=_STREAM_TIMEOUT_S):
        progress.note("rows of metering", piece.row_count)
        if piece.HasField("manifest"):
            again = MessageToDict(piece.manifest, preserving_proto_field_name=True)
            plain = {name: manifest.get(name) for name in names}
            found.compare("metering", plain, {name: again.get(name) for name in names})
            ours, others = sums_in(manifest, PARQUET), sums_in(again, PARQUET)
            found.compare("metering", {name: ours[name] for name in sums}, others)


class _Ledger:
    """Compares charges with the ledger, some at a time."""

    def __init__(self, channels: Channels, found: Findings) -> None:
        self._billing = billing_rpc.ChargeServiceStub(channels.billing)
        self._metering = metering_rpc.ChargeServiceStub(channels.metering)
        self._found = found
        self._expected: dict[str, Movement] = {}

    async def expect(self, movements: Sequence[Movement]) -> None:
        """Note movements that the ledger must have."""
        for one in movements:
            first = next(iter(self._expected.values()), one)
            if one.organization_id != first.organization_id or len(self._expected) == _NAMED_MAX:
                await self.finish()
            if one.operation_id in self._expected:
                self._found.differ(f"{one.organization_id} {one.operation_id}: the file has the charge twice")
            self._expected[one.operation_id] = one

    async def finish(self) -> None:
        """Look up what is noted."""
        if not self._expected:
            return
        expected, self._expected = self._expected, {}
        self._found.charges += len(expected)
        organization_id = next(iter(expected.values())).organization_id
        charged = await self._charged(organization_id, list(expected))
        missing = [operation_id for operation_id in expected if operation_id not in charged]
        states = await self._states(organization_id, missing) if missing else {}
        if missing:
            # What metering calls settled by now may have been charged between the two questions.
            charged |= await self._charged(organization_id, missing)
        for operation_id, movement in expected.items():
            wanted = f"{movement.amount.normalize():f} {movement.currency_code}"
            if operation_id in charged:
                amount, currency_code = charged[operation_id]
                if (amount, currency_code) != (movement.amount, movement.currency_code):
                    had = f"{amount.normalize():f} {currency_code}"
                    self._found.differ(f"{organization_id} {operation_id}: the file has {wanted}, the ledger has {had}")
            elif states.get(operation_id) == metering_pb2.CHARGE_STATE_PENDING:
                self._found.waiting += 1
            elif states.get(operation_id) != metering_pb2.CHARGE_STATE_GIVEN_UP:
                is_refused = states.get(operation_id) == metering_pb2.CHARGE_STATE_REFUSED
                why = "billing refuses it" if is_refused else "the ledger has no such charge"
                self._found.differ(f"{organization_id} {operation_id}: the file has {wanted}, but {why}")

    async def _charged(self, organization_id: str, ids: Sequence[str]) -> dict[str, tuple[Decimal, str]]:
        request = billing_pb2.ListChargesRequest(organization_id=organization_id, operation_ids=ids, page_size=_PAGE)
        found: dict[str, tuple[Decimal, str]] = {}
        while True:
            page = await self._billing.ListCharges(request)
            found |= {one.operation_id: (Decimal(one.amount.value), one.amount.currency_code) for one in page.charges}
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return found

    async def _states(self, organization_id: str, ids: Sequence[str]) -> dict[str, metering_pb2.ChargeState.ValueType]:
        request = metering_pb2.ListChargesRequest(organization_id=organization_id, operation_ids=ids, page_size=_PAGE)
        found: dict[str, metering_pb2.ChargeState.ValueType] = {}
        while True:
            page = await self._metering.ListCharges(request)
            found |= {one.operation_id: one.state for one in page.charges}
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return found
