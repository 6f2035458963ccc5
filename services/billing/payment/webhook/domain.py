"""Rules for webhooks, without a database."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from services.billing.payment.provider import Applied, Event, Fact, PaymentFact, Result

BODY_BYTES_MAX: Final = 262_144
"""The largest body of a webhook."""
KIND_CHARS_MAX: Final = 200
REASON_CHARS_MAX: Final = 500
_RETRY_FIRST_S: Final = 1.0
_RETRY_MAX_S: Final = 3_600.0
_DOUBLINGS_MAX: Final = 12
PARKED_FOR: Final = timedelta(days=3)
"""How long a webhook waits for what it names to become known. Providers tell of it within minutes, and it is asked for
within the first days, too."""
FAILURES_MAX: Final = 20
"""How often a webhook is tried that fails by an error of ours: for about half a day."""


class State(StrEnum):
    """Where a webhook is in its life."""

    WAITING = "WAITING"
    """It is to be applied."""
    PARKED = "PARKED"
    """What it names is not known yet; it is tried again."""
    APPLIED = "APPLIED"
    """It was applied, or said nothing new."""
    REFUSED = "REFUSED"
    """It contradicts the catalogue, or is of another store or mode."""
    SET_ASIDE = "SET_ASIDE"
    """It could not be applied in time; an operator looks at it."""


class Outcome(StrEnum):
    """What webhooks are counted by."""

    RECEIVED = "RECEIVED"
    REPEATED = "REPEATED"
    """It had come before."""
    IGNORED = "IGNORED"
    """It says nothing of payments. It is not kept."""
    FORGED = "FORGED"
    """Its signature is missing, wrong or too old."""
    OVERSIZED = "OVERSIZED"
    UNREADABLE = "UNREADABLE"
    ALTERED = "ALTERED"
    """It has the id of an event that said something else."""
    REFUSED = "REFUSED"
    SET_ASIDE = "SET_ASIDE"
    APPLIED = "APPLIED"


class OutOfPlace(StrEnum):
    """Why a fact is not for this installation, whatever it says."""

    ANOTHER_MODE = "ANOTHER_MODE"
    """It is of a test, and live payments count here, or the other way round."""
    ANOTHER_STORE = "ANOTHER_STORE"


@dataclass(frozen=True, slots=True)
class World:
    """Which facts of a provider are for this installation."""

    store: str
    is_test: bool

    def objection(self, facts: Sequence[Fact]) -> OutOfPlace | None:
        """Return why some of the facts are not for this installation, or None."""
        if any(fact.is_test != self.is_test for fact in facts):
            return OutOfPlace.ANOTHER_MODE
        return OutOfPlace.ANOTHER_STORE if any(fact.store != self.store for fact in facts) else None


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a webhook after an attempt."""

    state: State
    reason: str = ""
    next_attempt_time: datetime | None = None
    organization_id: str | None = None


def digest_of(event: Event) -> bytes:
    """Return a digest of what an event says, without the bytes in which it says it."""
    return hashlib.sha256(repr((event.kind, event.facts)).encode()).digest()


def subject_of(fact: Fact) -> tuple[str, str]:
    """Return what the fact is of: facts of one subject are applied one after another, others side by side."""
    if isinstance(fact, PaymentFact):
        named = fact.checkout_id or (str(fact.references[0]) if fact.references else "")
    else:
        named = fact.checkout_id or fact.external_id
    return fact.provider, named


def backoff(attempt_count: int, chance: float) -> timedelta:
    """Return how long to wait after the attempt of this number: a time that doubles, and is in part random.

    `chance` is from 0 to 1.
    """
    ceiling_s = min(_RETRY_MAX_S, _RETRY_FIRST_S * 2 ** min(attempt_count - 1, _DOUBLINGS_MAX))
    return timedelta(seconds=ceiling_s * (0.5 + chance / 2))


def after_applied(
    applied: Sequence[Applied], *, attempt_count: int, wait_since_time: datetime, now: datetime, chance: float
) -> Decision:
    """Return what becomes of a webhook whose facts were all brought to the payments.

    One that is refused is refused, whatever became of its other facts. Otherwise one that waits makes the webhook wait,
    and all of its facts are applied again, which changes nothing for those that were.
    """
    organization_id = next((one.organization_id for one in applied if one.organization_id), None)
    for one in applied:
        if one.result is Result.REFUSED:
            reason = f"{one.reason.value if one.reason else 'INVALID'}: {one.detail}".removesuffix(": ")
            return Decision(State.REFUSED, reason[:REASON_CHARS_MAX], None, organization_id)
    for one in applied:
        if one.result is Result.PARKED:
            reason = (one.detail or "What it names is not known.")[:REASON_CHARS_MAX]
            if now - wait_since_time >= PARKED_FOR:
                return Decision(State.SET_ASIDE, reason, None, organization_id)
            return Decision(State.PARKED, reason, now + backoff(attempt_count, chance), organization_id)
    return Decision(State.APPLIED, organization_id=organization_id)


def after_failure(reason: str, *, passing: bool, attempt_count: int, now: datetime, chance: float) -> Decision:
    """Return what becomes of a webhook whose attempt ended with an error.

    `passing` says that the error is of something that cannot be reached now: such attempts are made for ever.
    """
    if not passing and attempt_count >= FAILURES_MAX:
        return Decision(State.SET_ASIDE, reason[:REASON_CHARS_MAX])
    return Decision(State.WAITING, reason[:REASON_CHARS_MAX], now + backoff(attempt_count, chance))


Worlds = Mapping[str, World]
"""The world of each provider, by its name."""
