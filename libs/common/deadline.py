"""How long calls may last: the time the current call has left for calls to peers, and the life of streams."""

import time
from contextvars import ContextVar

_deadline_s: ContextVar[float | None] = ContextVar("deadline", default=None)

# Kept back from a peer's share, so that the answer can still be rendered and sent.
RESERVE_S = 0.02

STREAM_LIFE_S = 300.0
"""After how long the server ends a stream that has no end of its own. The client then opens another one.

A connection may reach its greatest age right after the stream began. The grace that it then has is longer than this, so
the transport never cuts such a stream.
"""


def enter_deadline(remaining_s: float) -> None:
    """Note that the current call must be answered within `remaining_s` seconds."""
    _deadline_s.set(time.monotonic() + remaining_s)


def leave_deadline() -> None:
    """Forget the deadline: what follows belongs to no single call."""
    _deadline_s.set(None)


def time_for_peer_s(longest_s: float) -> float:
    """Return the time a peer may take: the call's own remainder less a reserve, and never more than `longest_s`."""
    deadline_s = _deadline_s.get()
    if deadline_s is None:
        return longest_s
    return max(0.001, min(longest_s, deadline_s - time.monotonic() - RESERVE_S))
