"""The limits in force for calls: those that were set, and those that callers are entitled to.

A call falls under a live subscription: the one that it names, or else the nearest of its caller. Both are in billing's
answer to what the caller is entitled to, so no call waits for a question of its own. One that names another than the
nearest is entitled to what it would be without the nearer ones.

A call that waits for a decision needs both. Where billing cannot be asked what a caller is entitled to, the setting
`entitlements_required` says whether the call fails, which is the default, or whether the last answer is taken, however
old, and no limit where there was none. Work that is done already is counted and never fails because of that. Each call
that was decided or counted without knowing is counted in a metric.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from opentelemetry import metrics

from libs.common.errors import Unavailable
from services.metering.clients.entitlements import Entitlements, EntitlementsClient, Subscribed
from services.metering.clients.subscriptions import Subject as SubscriptionSubject
from services.metering.quota.book import LimitBook
from services.metering.quota.domain import Applied, Call, Limit, Scope, in_force
from services.metering.quota.entitled import entitled_limits, entitlements_of_subscription, entitlements_under

METRIC: Final = "tollhouse.calls_without_entitlements"
_QUESTIONS_MAX: Final = 64
"""How many subjects billing is asked about at once."""
_SUBJECTS_MAX: Final = 20_000
_ASK_AGAIN_AFTER_S: Final = 1.0
"""For how long after a failure billing is not asked about work that is done."""

Subject = tuple[str, str, str]
"""An organization, a user in it and a model; the latter two may be empty."""
_Known = Entitlements | Unavailable | None
"""What a subject is entitled to; None where it is not known and need not be."""


class InForce(NamedTuple):
    """What holds for a call."""

    applied: Sequence[Applied]
    """The limits in force."""
    subscription_id: str
    """The subscription that it falls under; empty for none."""
    is_live: bool
    """Whether the subscription that it names is a live one of its caller; so it is where that is not known."""
    subscriptions: Sequence[Subscribed]
    """The live ones of its caller, the nearest first."""


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
        self._applied: OrderedDict[tuple[str, ...], tuple[Entitlements, Entitlements | None, Sequence[Applied]]] = (
            OrderedDict()
        )
        """What the last answers about subjects make of limits, also under a subscription that is not the nearest."""
        self._in_force_before: OrderedDict[
            tuple[str, ...], tuple[Sequence[Limit], Sequence[Applied], Sequence[Applied]]
        ] = OrderedDict()
        """The limits in force for calls without labels, with what was set and entitled then."""
        self._counter = metrics.get_meter("tollhouse").create_counter(
            METRIC, description="Calls that were decided or counted without knowing what their callers are entitled to."
        )

    async def of(self, calls: Sequence[tuple[str, Call]], *, is_done: bool = False) -> list[InForce | Unavailable]:
        """Return what holds for calls of organizations, in their order, or why it is not known.

        `is_done` tells that the work was done already: then limits that billing would have to be asked for and cannot
        are left out.
        """
        books = await self._book.of({organization_id for organization_id, _ in calls})
        entitled = await self._entitled({_subject(*call) for call in calls}, is_done=is_done)
        wider = {
            subject
            for organization_id, call in calls
            if call.subscription_id
            and (subject := _wider(organization_id, call, entitled[_subject(organization_id, call)])) is not None
        }
        if wider:
            entitled |= await self._entitled(wider - entitled.keys(), is_done=is_done)
        return [self._found(organization_id, call, books[organization_id], entitled) for organization_id, call in calls]

    async def entitled_to(self, organization_id: str, user_id: str = "") -> Sequence[Applied]:
        """Return the limits that an organization, or a user in it, is entitled to, beside those for single models.

        Raises:
            Unavailable: billing cannot be asked.
        """
        subject = organization_id, user_id, ""
        return self._limits_of(subject, await self._entitlements.entitlements_of(*subject))

    async def given_by(
        self, organization_id: str, subscription_id: str, subject: SubscriptionSubject
    ) -> Sequence[Applied] | None:
        """Return the limits that a subscription gives, and overrides; None where it entitles to nothing now.

        Raises:
            Unavailable: billing cannot be asked.
        """
        async with self._questions:
            known = await self._entitlements.entitlements_of(organization_id, *subject)
        if all(one.subscription_id != subscription_id for one in known.subscriptions):
            return None
        return entitled_limits(organization_id, subject.user_id, entitlements_of_subscription(known, subscription_id))

    def _found(
        self,
        organization_id: str,
        call: Call,
        book: Sequence[Limit] | Unavailable,
        entitled: Mapping[Subject, _Known],
    ) -> InForce | Unavailable:
        """Return what holds for a call."""
        if isinstance(book, Unavailable):
            return book
        subject = _subject(organization_id, call)
        known = entitled[subject]
        if isinstance(known, Unavailable):
            return known
        named = call.subscription_id
        if known is None:
            self._counter.add(1)
            return InForce(self._in_force(organization_id, call, book, ()), named, True, ())
        subscriptions = known.subscriptions
        nearest = subscriptions[0].subscription_id if subscriptions else ""
        if not named or named == nearest:
            if nearest and not named:
                call = call._replace(subscription_id=nearest)
            applied = self._in_force(organization_id, call, book, self._limits_of(subject, known))
            return InForce(applied, nearest, True, subscriptions)
        wider = _wider(organization_id, call, known)
        if wider is None:
            # Nothing of it is remembered: anybody can name anything.
            applied = in_force(book, call, under(self._limits_of(subject, known), named))
            return InForce(applied, named, False, subscriptions)
        without_nearer = entitled[wider]
        if isinstance(without_nearer, Unavailable):
            return without_nearer
        limits = self._limits_of(subject, known, named, without_nearer)
        return InForce(self._in_force(organization_id, call, book, limits), named, True, subscriptions)

    def _in_force(
        self, organization_id: str, call: Call, book: Sequence[Limit], entitled: Sequence[Applied]
    ) -> Sequence[Applied]:
        """Return the limits in force for a call. Calls that differ in nothing share the list while nothing changes."""
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

    async def _entitled(self, subjects: Collection[Subject], *, is_done: bool) -> dict[Subject, _Known]:
        """Return what subjects are entitled to."""
        found: dict[Subject, _Known] = {}
        missing = []
        for subject in subjects:
            known = self._entitlements.known(*subject)
            if known is not None:
                found[subject] = known
            else:
                missing.append(subject)
        if missing:
            answers = await asyncio.gather(*(self._ask(subject, is_done=is_done) for subject in missing))
            found.update(zip(missing, answers, strict=True))
        return found

    async def _ask(self, subject: Subject, *, is_done: bool) -> _Known:
        async with self._questions:
            if not is_done or time.monotonic() >= self._ask_again_s:
                try:
                    return await self._entitlements.entitlements_of(*subject)
                except Unavailable as unavailable:
                    self._ask_again_s = time.monotonic() + _ASK_AGAIN_AFTER_S
                    if self._required and not is_done:
                        return unavailable
        return self._entitlements.last_known(*subject)

    def _limits_of(
        self,
        subject: Subject,
        entitlements: Entitlements,
        subscription_id: str = "",
        without_nearer: Entitlements | None = None,
    ) -> Sequence[Applied]:
        """Return the limits among what a subject is entitled to, also under a subscription that is not the nearest."""
        key = (*subject, subscription_id) if subscription_id else subject
        before, before_without, applied = self._applied.get(key, (None, None, ()))
        if before is not entitlements or before_without is not without_nearer:
            holding = entitlements
            if without_nearer is not None:
                holding = entitlements_under(entitlements, without_nearer)
            applied = entitled_limits(subject[0], subject[1], holding)
            if subscription_id:
                applied = under(applied, subscription_id)
            self._applied.pop(key, None)
            self._applied[key] = entitlements, without_nearer, applied
            if len(self._applied) > _SUBJECTS_MAX:
                self._applied.popitem(last=False)
        return applied


def under(applied: Sequence[Applied], subscription_id: str) -> list[Applied]:
    """Return limits without those that count the calls under another subscription."""
    return [one for one in applied if one.limit.shape.scope is not Scope.SUBSCRIPTION or one.subject == subscription_id]


def _subject(organization_id: str, call: Call) -> Subject:
    return organization_id, call.user_id, call.model


def _wider(organization_id: str, call: Call, known: _Known) -> Subject | None:
    """Return for whom a call's caller would have to be taken to have the named subscription as the nearest.

    None where it is the nearest, or none that the call can fall under.
    """
    if known is None or isinstance(known, Unavailable):
        return None
    for one in known.subscriptions[1:]:
        if one.subscription_id == call.subscription_id:
            return organization_id, one.user_id, one.model
    return None
