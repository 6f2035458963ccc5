"""Compares the charges of metering and billing: by digests, and row by row only where these differ.

A charge may be in flight between the two services, and their statements see different moments. So what differs is
looked at once more, by its key, a little later; only what differs then is a violation.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from libs.cli.peers import Peers, both, naming
from libs.cli.terminal.progress import Progress
from libs.cli.verdict import Check, NoVerdict, Verdict
from tollhouse.billing.v1 import charge_pb2 as billing_pb2
from tollhouse.common.v1 import digest_pb2
from tollhouse.metering.v1 import charge_pb2 as metering_pb2

_ORGANIZATIONS_MAX: Final = 1_000
_BUCKETS_MAX: Final = 65_536
"""The limits of one DigestCharges."""
_BUCKET_CHARGES_MAX: Final = 4_000
"""About how many charges a bucket has at most, all of which are listed if it differs."""
_PAGE_SIZE: Final = 5_000
_NAMED_MAX: Final = 1_000
"""How many operations one ListCharges may name."""
_UNCLEAR_MAX: Final = 10_000
_LOOK_AGAIN_AFTER_S: Final = 2.0
_STREAM_TIMEOUT_S: Final = 3600.0
_BOTH: Final = "metering, billing"
_STEP: Final = "comparing charges"


@dataclass(frozen=True, slots=True)
class Scope:
    """What is to be verified: one organization or all, from a time on or ever."""

    organization_id: str = ""
    since_time: Timestamp | None = None


class Charged(NamedTuple):
    """One charge as metering or billing has it."""

    operation_id: str
    amount: Decimal
    currency_code: str
    counts: bool
    """Whether it must be in the other service, too: metering's once settled, billing's if metering asked for it."""


_Digests = Mapping[tuple[str, int, str], digest_pb2.ChargeDigest]


def bucket_count(charges: int) -> int:
    """Return into how many buckets to divide so many charges: a power of two."""
    wanted = -(-charges // _BUCKET_CHARGES_MAX)
    return min(_BUCKETS_MAX, 1 << (wanted - 1).bit_length()) if wanted > 1 else 1


def groups(sizes: Iterable[tuple[str, int]]) -> Iterator[tuple[int, list[str]]]:
    """Put organizations that need the same number of buckets together, as many as one request may name.

    Yields the number of buckets and the ids.
    """
    alike: dict[int, list[str]] = {}
    for organization_id, charges in sizes:
        alike.setdefault(bucket_count(charges), []).append(organization_id)
    for buckets, ids in sorted(alike.items()):
        most = min(_ORGANIZATIONS_MAX, _BUCKETS_MAX // buckets)
        for start in range(0, len(ids), most):
            yield buckets, ids[start : start + most]


def differing(ours: _Digests, theirs: _Digests) -> dict[str, list[int]]:
    """Return the buckets of each organization whose digests differ, in ascending order."""
    found: dict[str, set[int]] = {}
    for key in ours.keys() | theirs.keys():
        mine, other = ours.get(key), theirs.get(key)
        if mine is None or other is None or _numbers(mine) != _numbers(other):
            found.setdefault(key[0], set()).add(key[1])
    return {organization_id: sorted(found[organization_id]) for organization_id in sorted(found)}


def _numbers(digest: digest_pb2.ChargeDigest) -> tuple[int, int, Decimal]:
    return digest.charge_count, digest.digest, Decimal(digest.total.value)


def _differs(ours: Charged | None, theirs: Charged | None) -> bool:
    """Tell whether a charge, as both services have it, is a violation unless it is in flight."""
    if ours is None or theirs is None:
        return any(one is not None and one.counts for one in (ours, theirs))
    return (ours.amount, ours.currency_code) != (theirs.amount, theirs.currency_code)


@dataclass(slots=True)
class Comparison:
    """One comparison of all charges in a scope; what it finds goes into the verdict."""

    peers: Peers
    scope: Scope
    verdict: Verdict
    progress: Progress
    rows_total: int | None = None
    """How many rows there are to read in both services, for the progress; None if that is not known."""
    amounts: Check = field(
        default_factory=lambda: Check(
            _BOTH, "X1_charges_agree", "A charge is missing in one of the two, or its amount differs.", 0, 0
        )
    )
    settled: Check = field(
        default_factory=lambda: Check(
            _BOTH, "X2_settled_is_charged", "A charge that metering calls settled is missing in billing.", 0, 0
        )
    )
    _rows_read: int = 0
    _unclear: list[tuple[str, str]] = field(default_factory=list)
    _unclear_since_s: float = 0.0

    async def compare(self, sizes: Iterable[tuple[str, int]], until_time: Timestamp) -> None:
        """Compare what organizations were charged up to a time; `sizes` says about how many charges each has."""
        for buckets, organization_ids in groups(sizes):
            ours, theirs = await both(
                self._metered_digests(organization_ids, buckets, until_time),
                self._billed_digests(organization_ids, buckets, until_time),
            )
            self.settled.examined += sum(one.charge_count for one in ours.values())
            self.amounts.examined += sum(
                max(part[key].charge_count for part in (ours, theirs) if key in part)
                for key in ours.keys() | theirs.keys()
            )
            for organization_id, different in differing(ours, theirs).items():
                await self._open(organization_id, different, buckets, until_time)

    async def finish(self) -> None:
        """Look once more at what differed, and add the checks to the verdict."""
        await self._look_again()
        self.progress.end(_STEP)
        self.verdict.checks += [self.amounts, self.settled]

    async def _metered_digests(self, organization_ids: Sequence[str], buckets: int, until_time: Timestamp) -> _Digests:
        request = metering_pb2.DigestChargesRequest(
            organization_ids=organization_ids,
            bucket_count=buckets,
            since_time=self.scope.since_time,
            until_time=until_time,
        )
        found: dict[tuple[str, int, str], digest_pb2.ChargeDigest] = {}
        with naming("metering"):
            async for piece in self.peers.metering.DigestCharges(request, timeout=_STREAM_TIMEOUT_S):
                self._note(piece.rows_read)
                found.update((_key(digest), digest) for digest in piece.digests)
        return found

    async def _billed_digests(self, organization_ids: Sequence[str], buckets: int, until_time: Timestamp) -> _Digests:
        request = billing_pb2.DigestChargesRequest(
            organization_ids=organization_ids,
            bucket_count=buckets,
            since_time=self.scope.since_time,
            until_time=until_time,
        )
        found: dict[tuple[str, int, str], digest_pb2.ChargeDigest] = {}
        with naming("billing"):
            async for piece in self.peers.billing.DigestCharges(request, timeout=_STREAM_TIMEOUT_S):
                self._note(piece.rows_read)
                found.update((_key(digest), digest) for digest in piece.digests)
        return found

    def _note(self, rows: int) -> None:
        self._rows_read += rows
        self.progress.note(_STEP, self._rows_read, self.rows_total)

    async def _open(self, organization_id: str, buckets: Sequence[int], count: int, until_time: Timestamp) -> None:
        """List the charges in buckets of an organization, which both services sort alike, and note what differs."""
        ours = _sorted(
            "metering", self._metered(organization_id, buckets=buckets, bucket_count=count, until_time=until_time)
        )
        theirs = _sorted(
            "billing", self._billed(organization_id, buckets=buckets, bucket_count=count, until_time=until_time)
        )
        mine, other = await both(anext(ours, None), anext(theirs, None))
        while mine is not None or other is not None:
            first = min(one.operation_id for one in (mine, other) if one is not None)
            pair = (
                mine if mine is not None and mine.operation_id == first else None,
                other if other is not None and other.operation_id == first else None,
            )
            if _differs(*pair):
                await self._suspect(organization_id, first)
            if pair[0] is not None:
                mine = await anext(ours, None)
            if pair[1] is not None:
                other = await anext(theirs, None)

    async def _suspect(self, organization_id: str, operation_id: str) -> None:
        self._unclear.append((organization_id, operation_id))
        self._unclear_since_s = time.monotonic()
        if len(self._unclear) >= _UNCLEAR_MAX:
            await self._look_again()

    async def _look_again(self) -> None:
        """Ask both services for each charge that differed, by its key, once the last of them is a little older."""
        if self._unclear:
            await asyncio.sleep(max(0.0, self._unclear_since_s + _LOOK_AGAIN_AFTER_S - time.monotonic()))
        unclear: dict[str, list[str]] = {}
        for organization_id, operation_id in self._unclear:
            unclear.setdefault(organization_id, []).append(operation_id)
        self._unclear.clear()
        for organization_id, operation_ids in unclear.items():
            for start in range(0, len(operation_ids), _NAMED_MAX):
                await self._judge(organization_id, operation_ids[start : start + _NAMED_MAX])

    async def _judge(self, organization_id: str, operation_ids: Sequence[str]) -> None:
        """Report those of the charges that still differ."""
        ours, theirs = await both(
            _by_operation(self._metered(organization_id, operation_ids=operation_ids)),
            _by_operation(self._billed(organization_id, operation_ids=operation_ids)),
        )
        for operation_id in operation_ids:
            mine, other = ours.get(operation_id), theirs.get(operation_id)
            if not _differs(mine, other):
                continue
            if other is None and mine is not None:
                detail = f"is settled for {mine.amount:f}, but billing has no such charge"
                self.verdict.report(self.settled, organization_id, operation_id, detail)
            elif mine is None and other is not None:
                detail = f"was charged {other.amount:f}, but metering has no such charge, or gave it up"
                self.verdict.report(self.amounts, organization_id, operation_id, detail)
            elif mine is not None and other is not None:
                detail = (
                    f"costs {mine.amount:f} {mine.currency_code}, "
                    f"but {other.amount:f} {other.currency_code} was charged"
                )
                self.verdict.report(self.amounts, organization_id, operation_id, detail)

    async def _metered(
        self,
        organization_id: str,
        *,
        operation_ids: Sequence[str] = (),
        buckets: Sequence[int] = (),
        bucket_count: int = 0,
        until_time: Timestamp | None = None,
    ) -> AsyncIterator[Charged]:
        request = metering_pb2.ListChargesRequest(
            organization_id=organization_id,
            page_size=_PAGE_SIZE,
            operation_ids=operation_ids,
            buckets=buckets,
            bucket_count=bucket_count,
            since_time=self.scope.since_time if buckets else None,
            until_time=until_time,
        )
        while True:
            with naming("metering"):
                page = await self.peers.metering.ListCharges(request)
            for charge in page.charges:
                if charge.state != metering_pb2.CHARGE_STATE_GIVEN_UP:
                    amount, settled = charge.amount, charge.state == metering_pb2.CHARGE_STATE_SETTLED
                    yield Charged(charge.operation_id, Decimal(amount.value), amount.currency_code, settled)
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def _billed(
        self,
        organization_id: str,
        *,
        operation_ids: Sequence[str] = (),
        buckets: Sequence[int] = (),
        bucket_count: int = 0,
        until_time: Timestamp | None = None,
    ) -> AsyncIterator[Charged]:
        request = billing_pb2.ListChargesRequest(
            organization_id=organization_id,
            page_size=_PAGE_SIZE,
            operation_ids=operation_ids,
            buckets=buckets,
            bucket_count=bucket_count,
            since_time=self.scope.since_time if buckets else None,
            until_time=until_time,
        )
        while True:
            with naming("billing"):
                page = await self.peers.billing.ListCharges(request)
            for charge in page.charges:
                amount = Decimal(charge.amount.value)
                # Work that cost nothing releases its hold in full; for metering that is not a charge.
                if amount:
                    asked = charge.source == "metering"
                    yield Charged(charge.operation_id, amount, charge.amount.currency_code, asked)
            request.page_token = page.next_page_token
            if not request.page_token:
                return


def _key(digest: digest_pb2.ChargeDigest) -> tuple[str, int, str]:
    return digest.organization_id, digest.bucket, digest.total.currency_code


async def _by_operation(charges: AsyncIterator[Charged]) -> dict[str, Charged]:
    return {charge.operation_id: charge async for charge in charges}


async def _sorted(service: str, charges: AsyncIterator[Charged]) -> AsyncIterator[Charged]:
    """Check that a list is sorted, as merging two lists needs: operation ids are ASCII, so text compares like bytes."""
    last = ""
    async for charge in charges:
        if charge.operation_id <= last:
            raise NoVerdict(f"{service} lists {charge.operation_id} out of order; its charges cannot be compared.")
        last = charge.operation_id
        yield charge
