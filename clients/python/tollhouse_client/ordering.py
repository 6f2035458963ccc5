"""Keeps the order of calls with one operation id: each begins when the one before it has its outcome.

So a Settle never overtakes its Authorize, and parts of a call arrive in the order in which they were handed over, even
where calls are sent again.
"""

from collections import deque
from collections.abc import Callable


class Turns:
    """Who has the turn of each operation id, and who waits for it."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Callable[[], None]] | None] = {}

    def take(self, operation_id: str, begin: Callable[[], None]) -> bool:
        """Take the turn if nobody has it. Else `begin` is called when it is this one's, and False returned."""
        waiting = self._waiting
        if operation_id not in waiting:
            waiting[operation_id] = None
            return True
        queue = waiting[operation_id]
        if queue is None:
            queue = waiting[operation_id] = deque()
        queue.append(begin)
        return False

    def pass_on(self, operation_id: str) -> None:
        """Give the turn to the next who waits for it."""
        queue = self._waiting[operation_id]
        if queue:
            queue.popleft()()
        else:
            del self._waiting[operation_id]
