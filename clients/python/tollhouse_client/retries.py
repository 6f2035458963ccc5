"""When a call is sent again, and after which pause.

Every RPC of Tollhouse either reads or carries an id that makes it safe to send again, so what decides is whether a
repeat helps: UNAVAILABLE says that waiting does (AIP-194), CANCELLED from a server is a call that a closing connection
dropped. A repeat is the same message, operation id included.
"""

import random
from dataclasses import dataclass
from typing import Final

import grpc

from tollhouse_client.errors import ClientClosed, TollhouseError

_HELPED_BY_WAITING: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
REFUSED_FOR_GOOD: Final = (
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
)
"""What the same usage gets again whenever it is sent. All else, such as lost credentials, may be mended."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a call is made at most, and how the pauses grow. The deadline of the call ends them all."""

    attempts_max: int = 100
    pause_s: float = 0.05
    """The first pause at most; it doubles with each attempt, and each is drawn at random from its upper half."""
    pause_max_s: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.attempts_max <= 100:
            raise ValueError(f"attempts_max must be between 1 and 100, not {self.attempts_max}")
        if not 0 < self.pause_s <= self.pause_max_s <= 60:
            raise ValueError("pause_s must be above 0 and at most pause_max_s, which must be at most 60 seconds")

    def pause_before(self, attempts: int, error: TollhouseError, left_s: float) -> float | None:
        """Return the pause before the next attempt, or None where there is none.

        `attempts` are made already, the last of them failed with `error`, and `left_s` is what is left of the call's
        time. Where the service says how long to wait, the pause is at least that.
        """
        if attempts >= self.attempts_max or error.code not in _HELPED_BY_WAITING or isinstance(error, ClientClosed):
            return None
        pause_s = min(self.pause_max_s, self.pause_s * 2.0 ** (attempts - 1)) * random.uniform(0.5, 1)
        if error.retry_after_s is not None:
            pause_s = max(pause_s, error.retry_after_s)
        return pause_s if pause_s < left_s else None
