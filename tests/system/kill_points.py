"""The points at which metering and billing kill themselves, by the names of `dying_services`."""

from enum import Enum
from typing import Final, NamedTuple

from tests.system.dying_services import CONFIRMED


class Kind(Enum):
    """What a caller does, which leads a process to certain points."""

    SETTLE = "a call is authorized and settled"
    PARTS = "a call is authorized, and settled in parts"
    KEY = "a call is authorized by an API key and settled"
    DECLINE = "a call is authorized for which there is no money"
    CANCEL = "a call is authorized and cancelled"
    LAPSE = "a call is authorized, and nobody ends it"
    ALLOCATE = "an amount and a place are allocated, and the place is released"
    LEASE = "an amount and a place are allocated, and nobody releases the place"
    RECORD = "usage is recorded"
    BATCH = "several usages are recorded at once"
    CORRECT = "usage is recorded, and amended twice"
    NOW_AND_THEN = "usage is recorded, and then nothing for a while"


class Point(NamedTuple):
    """A point, and what leads there."""

    name: str
    kind: Kind


def _around(seam: str, kind: Kind) -> tuple[Point, Point]:
    return Point(f"before {seam}", kind), Point(f"after {seam}", kind)


METERING: Final = (
    # Authorize
    *_around("CheckOrganizations", Kind.SETTLE),
    *_around("VerifyApiKey", Kind.KEY),
    *_around("the statement of Counters.create", Kind.SETTLE),
    *_around("the statement of Writer._write_quickly", Kind.SETTLE),
    *_around("the commit of Writer._write_within_limits", Kind.SETTLE),
    *_around("BatchCreateHold", Kind.SETTLE),
    Point("before the answer of Authorize", Kind.SETTLE),
    # The give-back of a declined hold
    *_around("the commit of Admission._note", Kind.DECLINE),
    # Settle
    *_around("the commit of a settlement", Kind.SETTLE),
    *_around("BatchCaptureHold", Kind.SETTLE),
    Point("before the answer of Settle", Kind.SETTLE),
    # Settle in parts
    *_around("the statement of Parts._write", Kind.PARTS),
    *_around("the commit of LastSettlements._write", Kind.PARTS),
    # RecordUsage and BatchRecordUsage
    *_around("the commit of usage", Kind.RECORD),
    *_around("BatchDebit", Kind.RECORD),
    Point("before the answer of RecordUsage", Kind.RECORD),
    Point("before the answer of BatchRecordUsage", Kind.BATCH),
    # Confirmed charges leave the outbox: with the next batch, when there is none for a while, or by the relay
    *_around(f"the commit of {CONFIRMED}", Kind.RECORD),
    *_around("the statement of Charging.flush", Kind.NOW_AND_THEN),
    *_around("the commit of Relay._send", Kind.RECORD),
    # AmendUsage
    *_around("the commit of Corrections._write", Kind.CORRECT),
    *_around("BatchReverseTransaction", Kind.CORRECT),
    Point("before the answer of AmendUsage", Kind.CORRECT),
    # Cancel
    *_around("ReleaseHold", Kind.CANCEL),
    *_around("the commit of Authorizations.cancel", Kind.CANCEL),
    Point("before the answer of Cancel", Kind.CANCEL),
    # The lapse of an authorization
    *_around("the commit of Lapses._give_back_each", Kind.LAPSE),
    *_around("the statement of Lapses._check", Kind.LAPSE),
    # AllocateQuota, ReleaseQuota, and the end of leases
    *_around("the commit of Allocations._allocate", Kind.ALLOCATE),
    Point("before the answer of AllocateQuota", Kind.ALLOCATE),
    *_around("the commit of Allocations._release", Kind.ALLOCATE),
    Point("before the answer of ReleaseQuota", Kind.ALLOCATE),
    *_around("the commit of Allocations._end", Kind.LEASE),
)
BILLING: Final = (
    *_around("the commit of a Place", Kind.SETTLE),
    *_around("the commit of a Capture", Kind.SETTLE),
    *_around("the commit of a Release", Kind.CANCEL),
    *_around("the commit of a Debit", Kind.RECORD),
    *_around("the commit of a Reverse", Kind.CORRECT),
)
