"""Exports in one line each, and their files read back."""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from tests.metering.support import Metering
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import usage_pb2 as pb

CSV = pb.USAGE_EXPORT_FORMAT_CSV
JSON_LINES = pb.USAGE_EXPORT_FORMAT_JSON_LINES
FOCUS = pb.USAGE_EXPORT_FORMAT_FOCUS


@dataclass
class File:
    """What a stream sent."""

    data: bytes = b""
    pieces: list[pb.ExportUsageResponse] = field(default_factory=list)

    @property
    def manifest(self) -> pb.UsageExportManifest:
        return self.pieces[-1].manifest

    def table(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.data.decode("utf-8-sig"), newline="")))

    def objects(self) -> list[dict[str, object]]:
        return [json.loads(line, parse_float=Decimal) for line in self.data.decode().split("\n")[:-1]]


def export(
    organization_id: str = "", form: pb.UsageExportFormat.ValueType = CSV, **fields: object
) -> pb.ExportUsageRequest:
    return pb.ExportUsageRequest(organization_id=organization_id, format=form, **fields)  # type: ignore[arg-type]


async def exported(
    metering: Metering, request: pb.ExportUsageRequest, metadata: Sequence[tuple[str, str]] | None = None
) -> File:
    """Return a whole file."""
    file = File()
    async for piece in metering.usage.ExportUsage(request, metadata=metadata or metering.operator):
        file.pieces.append(piece)
        file.data += piece.body.data
    return file


def digest_of(data: bytes) -> str:
    digest = bytes(32)
    for line in data.split(b"\n")[:-1]:
        digest = hashlib.sha256(digest + line + b"\n").digest()
    return digest.hex()


def values(amounts: Sequence[Amount]) -> dict[str, Decimal]:
    return {one.currency_code: Decimal(one.value) for one in amounts}
