"""The limits in force for calls: those that were set, and those that callers are entitled to.

A call that waits for a decision needs both. Where billing cannot be asked what a caller is entitled to, the setting
`entitlements_required` says whether the call fails, which is the default, or whether the last answer is taken, however
old, and no limit where there was none. Work that is done already is counted and never fails because of that. Each call
that was decided or counted without knowing is counted in a metric.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from opentelemetry import metrics

from libs.common.errors import Unavailable
from services.metering.clients.entitlements import Entitlements, EntitlementsClient
from services.metering.quota.book import LimitBook
from services.metering.quota.domain import Applied, Call, Limit, in_force
from services.metering.quota.entitled import entitled_limits

METRIC: Final = "tollhouse.calls_without_entitlements"
_QUESTIONS_MAX: Final = 64
"""How many subjects billing is asked about at once."""
_SUBJECTS_MAX: Final = 20_000
_ASK_AGAIN_AFTER_S: Final = 1.0
"""For how long after a failure billing is not asked about work that is done."""

Subject = tuple[str, str, str]
"""An organization, a user in it and a model; the latter two may be empty."""


class CallLimits:
    """Finds the limits in force for calls."""

    def __init__(
        self, book: LimitBook, entitlements: EntitlementsClient, *, entitlements_required: bool = True
    ) -> None:
        self._book = book
        self._entitlements = entitlements
        self._required = entitlements_required
        self._questions = asyncio.Semaphore(_QUESTIONS_MAX)
        self._ask_again_s = 0.0
        self._applied: OrderedDict[Subject, tuple[Entitlements, Sequence[Applied]]] = OrderedDict()
        """What the last answer about each subject makes of limits."""
        self._in_force_before: OrderedDict[
            tuple[str, ...], tuple[Sequence[Limit], Sequence[Applied], Sequence[Applied]]
        ] = OrderedDict()
        """The limits in force for calls without labels, with what was set and entitled then."""
        self._counter = metrics.get_meter("tollhouse").create_counter(
            METRIC, description="Calls that were decided or counted without knowing what their callers are entitled to."
        )
        self.unknown_count = 0
        """How many since the process began."""

    async def of(
        self, calls: Sequence[tuple[str, Call]], *, is_done: bool = False
    ) -> list[Sequence[Applied] | Unavailable]:
        """Return the limits in force for calls of organizations, in their order, or why they are not known.

        `is_done` tells that the work was done already: then limits that billing would have to be asked for and cannot
        are left out.
        """
        books = await self._book.of({organization_id for organization_id, _ in calls})
        entitled = await self._entitled({_subject(*call) for call in calls}, is_done=is_done)
        return [
            self._in_force(organization_id, call, books[organization_id], entitled[_subject(organization_id, call)])
            for organization_id, call in calls
        ]

    async def entitled_to(self, organization_id: str, user_id: str = "") -> Sequence[Applied]:
        """Return the limits that an organization, or a user in it, is entitled to, beside those for single models.

        Raises:
            Unavailable: billing cannot be asked.
        """
        subject = organization_id, user_id, ""
        return self._limits_of(subject, await self._entitlements.entitlements_of(*subject))

    def _in_force(
        self,
        organization_id: str,
        call: Call,
        book: Sequence[Limit] | Unavailable,
        entitled: Sequence[Applied] | Unavailable | None,
    ) -> Sequence[Applied] | Unavailable:
        """Return the limits in force for a call. Calls that differ in nothing share the list while nothing changes."""
        if isinstance(book, Unavailable):
            return book
        if isinstance(entitled, Unavailable):
            return entitled
        if entitled is None:
            self.unknown_count += 1
            self._counter.add(1)
        entitled = entitled or ()
        if not book and not entitled:
            return ()
        if call.labels:
            return in_force(book, call, entitled)
        key = organization_id, *call[:-1]
        book_before, entitled_before, applied = self._in_force_before.get(key, (None, None, ()))
        if book_before is not book or entitled_before is not entitled:
            applied = in_force(book, call, entitled)
            self._in_force_before.pop(key, None)
            self._in_force_before[key] = book, entitled, applied
            if len(self._in_force_before) > _SUBJECTS_MAX:
                self._in_force_before.popitem(last=False)
        return applied

    async def _entitled(
        self, subjects: set[Subject], *, is_done: bool
    ) -> dict[Subject, Sequence[Applied] | Unavailable | None]:
        """Return what subjects are entitled to; None where it is not known and need not be."""
        found: dict[Subject, Sequence[Applied] | Unavailable | None] = {}
        missing = []
        for subject in subjects:
            known = self._entitlements.known(*subject)
            if known is not None:
                found[subject] = self._limits_of(subject, known)
            else:
                missing.append(subject)
        if missing:
            answers = await asyncio.gather(*(self._ask(subject, is_done=is_done) for subject in missing))
            found.update(zip(missing, answers, strict=True))
        return found

    async def _ask(self, subject: Subject, *, is_done: bool) -> Sequence[Applied] | Unavailable | None:
        async with self._questions:
            if not is_done or time.monotonic() >= self._ask_again_s:
                try:
                    return self._limits_of(subject, await self._entitlements.entitlements_of(*subject))
                except Unavailable as unavailable:
                    self._ask_again_s = time.monotonic() + _ASK_AGAIN_AFTER_S
                    if self._required and not is_done:
                        return unavailable
        last = self._entitlements.last_known(*subject)
        return None if last is None else self._limits_of(subject, last)

    def _limits_of(self, subject: Subject, entitlements: Entitlements) -> Sequence[Applied]:
        before, applied = self._applied.get(subject, (None, ()))
        if before is not entitlements:
            applied = entitled_limits(subject[0], subject[1], entitlements)
            self._applied.pop(subject, None)
            self._applied[subject] = entitlements, applied
            if len(self._applied) > _SUBJECTS_MAX:
                self._applied.popitem(last=False)
        return applied


def _subject(organization_id: str, call: Call) -> Subject:
    return organization_id, call.user_id, call.model
