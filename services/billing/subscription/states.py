"""The states of a subscription, and the one table of what leads from one to another.

The diagram in the docs is made from this table.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a subscription is in its life."""

    PENDING = "PENDING"
    TRIALING = "TRIALING"
    ACTIVE = "ACTIVE"
    PAST_DUE = "PAST_DUE"
    PAUSED = "PAUSED"
    SUSPENDED = "SUSPENDED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"

    @property
    def is_final(self) -> bool:
        """Whether the subscription has ended for good. All other states are live."""
        return self in (State.CANCELLED, State.EXPIRED)

    @property
    def entitles(self) -> bool:
        """Whether a subscription in this state entitles to anything."""
        return self in (State.TRIALING, State.ACTIVE, State.PAST_DUE)


class EventKind(StrEnum):
    """What happened to a subscription."""

    CREATED = "CREATED"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    TRIAL_STARTED = "TRIAL_STARTED"
    PERIOD_STARTED = "PERIOD_STARTED"
    PERIOD_PASSED = "PERIOD_PASSED"
    PAYMENT_REFUSED = "PAYMENT_REFUSED"
    PAYMENT_MADE = "PAYMENT_MADE"
    PLAN_CHANGED = "PLAN_CHANGED"
    PLAN_CHANGE_SCHEDULED = "PLAN_CHANGE_SCHEDULED"
    PLAN_CHANGE_WITHDRAWN = "PLAN_CHANGE_WITHDRAWN"
    PAUSED = "PAUSED"
    RESUMED = "RESUMED"
    SUSPENDED = "SUSPENDED"
    CANCELLATION_SCHEDULED = "CANCELLATION_SCHEDULED"
    CANCELLATION_WITHDRAWN = "CANCELLATION_WITHDRAWN"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    UPDATED = "UPDATED"
    MINIMUM_CHARGED = "MINIMUM_CHARGED"


_K: Final = EventKind
_S: Final = State
_RUNNING: Final = frozenset({_S.TRIALING, _S.ACTIVE, _S.PAST_DUE})
_RESTING: Final = frozenset({_S.PAUSED, _S.SUSPENDED})
_LIVE: Final = frozenset({_S.PENDING}) | _RUNNING | _RESTING

TRANSITIONS: Final[Mapping[EventKind, Mapping[State, frozenset[State]]]] = {
    _K.APPROVED: {_S.PENDING: frozenset({_S.PENDING})},
    _K.REJECTED: {_S.PENDING: frozenset({_S.CANCELLED})},
    _K.TRIAL_STARTED: {_S.PENDING: frozenset({_S.TRIALING})},
    _K.PERIOD_STARTED: {
        _S.PENDING: frozenset({_S.ACTIVE}),
        _S.TRIALING: frozenset({_S.ACTIVE, _S.PAST_DUE}),
        _S.ACTIVE: frozenset({_S.ACTIVE, _S.PAST_DUE}),
        _S.PAST_DUE: frozenset({_S.PAST_DUE, _S.ACTIVE}),
    },
    _K.PERIOD_PASSED: {state: frozenset({state}) for state in _RESTING},
    _K.PAYMENT_REFUSED: {state: frozenset({state}) for state in _RUNNING | {_S.PENDING, _S.SUSPENDED}},
    _K.PAYMENT_MADE: {state: frozenset({_S.ACTIVE}) for state in (_S.PENDING, _S.PAST_DUE, _S.SUSPENDED)},
    _K.PLAN_CHANGED: {
        _S.PENDING: frozenset({_S.PENDING, _S.ACTIVE}),
        _S.TRIALING: frozenset({_S.TRIALING, _S.ACTIVE}),
        _S.ACTIVE: frozenset({_S.ACTIVE, _S.PAST_DUE}),
        _S.PAST_DUE: frozenset({_S.ACTIVE}),
        _S.PAUSED: frozenset({_S.PAUSED}),
        _S.SUSPENDED: frozenset({_S.SUSPENDED}),
    },
    _K.PLAN_CHANGE_SCHEDULED: {state: frozenset({state}) for state in _RUNNING},
    _K.PLAN_CHANGE_WITHDRAWN: {state: frozenset({state}) for state in _RUNNING | _RESTING},
    _K.PAUSED: {state: frozenset({_S.PAUSED}) for state in (_S.TRIALING, _S.ACTIVE)},
    _K.RESUMED: {state: frozenset({_S.ACTIVE, _S.TRIALING, _S.PAST_DUE}) for state in _RESTING},
    _K.SUSPENDED: {state: frozenset({_S.SUSPENDED}) for state in _RUNNING | {_S.PAUSED, _S.PENDING}},
    _K.CANCELLATION_SCHEDULED: {state: frozenset({state}) for state in _RUNNING | _RESTING},
    _K.CANCELLATION_WITHDRAWN: {state: frozenset({state}) for state in _RUNNING | _RESTING},
    _K.CANCELLED: {state: frozenset({_S.CANCELLED}) for state in _LIVE},
    _K.EXPIRED: {state: frozenset({_S.EXPIRED}) for state in _LIVE},
    _K.UPDATED: {state: frozenset({state}) for state in _S},
    _K.MINIMUM_CHARGED: {state: frozenset({state}) for state in _RESTING | {_S.ACTIVE}},
}
"""Of each kind of event: the states in which it may happen, and those it may lead to. CREATED is the first event, and
leads to PENDING."""


def may_happen(kind: EventKind, state: State) -> bool:
    """Return whether an event of this kind may happen to a subscription in this state."""
    return state in TRANSITIONS.get(kind, {})


def may_lead_to(kind: EventKind, before: State, after: State) -> bool:
    """Return whether an event of this kind may lead from one state to another."""
    return after in TRANSITIONS.get(kind, {}).get(before, frozenset())
