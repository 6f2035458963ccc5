"""Reads requests for corrections."""

import hashlib
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from libs.common.amount import format_amount, parse_amount
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.timestamps import parse_optional_time
from libs.common.update_mask import mask_violations
from services.metering.model.catalogue import Catalogue
from services.metering.model.parsing import read_tokens, read_used
from services.metering.model.units import Units
from services.metering.usage.correction.corrections import Wanted
from services.metering.usage.correction.domain import Amendment, CorrectionKind, State, amended
from services.metering.usage.domain import NO_QUANTITIES, Recorded, Stated
from services.metering.usage.parsing import read_labels
from tollhouse.metering.v1 import model_pb2
from tollhouse.metering.v1 import usage_pb2 as pb

Request = pb.AmendUsageRequest | pb.VoidUsageRequest | pb.RestoreUsageRequest

_FINGERPRINT_BYTES: Final = 16
_AMENDABLE: Final = ("tokens", "quantities", "labels", "occur_time", "items", "stated_amount")
_REQUIRED: Final = ("occur_time", "stated_amount")
"""Fields that an amendment has a value for, where it names them."""


def read_amendment(request: pb.AmendUsageRequest, units: Units) -> tuple[Amendment, Sequence[str]]:
    """Read what an amendment replaces, and the labels that are not stored as they were sent.

    Raises:
        InvalidArgument: the mask names no field, or one that cannot be amended, or a value is wrong.
    """
    paths = frozenset(request.update_mask.paths)
    violations = mask_violations(paths, _AMENDABLE)
    violations += [
        FieldViolation(path, "is required, since update_mask names it")
        for path in _REQUIRED
        if path in paths and not request.HasField(path)
    ]
    labels, adjusted = read_labels(request.labels)
    # What is authorized or recorded is charged whatever was archived since, so archived units may be used here.
    used = read_used(model_pb2.TokenCounts(), request.quantities, None, units, violations, archived=True)
    occur_time = parse_optional_time("occur_time", request.occur_time, present=request.HasField("occur_time"))
    stated = None
    if request.HasField("stated_amount"):
        amount = parse_amount("stated_amount", request.stated_amount, violations, minimum=Decimal(0))
        stated = Stated(format_amount(amount), request.stated_amount.currency_code)
    if violations:
        raise InvalidArgument(violations)
    quantities = {unit: value for unit, value in used.quantities.items() if value} or NO_QUANTITIES
    tokens, items = read_tokens(request.tokens), request.items or None
    return Amendment(paths, tokens, quantities, labels, occur_time, items, stated), adjusted


def wanted_amendment(request: pb.AmendUsageRequest, amendment: Amendment) -> Wanted:
    """Return an amendment as a correction that is wanted."""

    def change(state: State, catalogue: Catalogue) -> Recorded:
        version_id = None if state.usage.cost is None else state.usage.cost.price_version_id
        version = None if version_id is None else catalogue.version(version_id)
        return amended(state.usage, amendment, version, catalogue.units)

    return _wanted(request, CorrectionKind.AMEND)._replace(change=change)


def wanted_void(request: pb.VoidUsageRequest) -> Wanted:
    """Return a void as a correction that is wanted."""
    return _wanted(request, CorrectionKind.VOID)


def wanted_restoration(request: pb.RestoreUsageRequest) -> Wanted:
    """Return a restoration as a correction that is wanted."""
    return _wanted(request, CorrectionKind.RESTORE)._replace(change=lambda state, _: state.usage)


def _wanted(request: Request, kind: CorrectionKind) -> Wanted:
    return Wanted(
        request.organization_id.lower(),
        request.operation_id,
        _fingerprint(request, kind),
        kind,
        request.usage_operation_id,
        request.reason,
        lambda state, _: None,
    )


def _fingerprint(request: Request, kind: CorrectionKind) -> bytes:
    body = type(request)()
    body.CopyFrom(request)  # type: ignore[arg-type]  # It is of the same type.
    body.organization_id = body.organization_id.lower()
    digest = hashlib.blake2b(kind.value.encode(), digest_size=_FINGERPRINT_BYTES)
    digest.update(body.SerializeToString(deterministic=True))
    return digest.digest()
