"""Counts answers from an expired cache, given because their source cannot be reached, and logs each episode."""

from typing import Final

import structlog
from opentelemetry import metrics

_log = structlog.get_logger("staleness")
METRIC: Final = "tollhouse.stale_answers"


class StaleAnswers:
    """Counts stale answers; each episode is logged once when it begins and once when it ends."""

    def __init__(self, dependency: str, meter: metrics.Meter | None = None) -> None:
        self._dependency = dependency
        self._counter = (meter or metrics.get_meter("tollhouse")).create_counter(
            METRIC, description="Answers given beyond their time because a dependency could not be reached."
        )
        self._in_episode = 0
        self.count = 0
        """How many there were since the process began."""

    def note_stale(self) -> None:
        """Count an answer."""
        if not self._in_episode:
            _log.warning("answers are given beyond their time", dependency=self._dependency)
        self._in_episode += 1
        self.count += 1
        self._counter.add(1, {"dependency": self._dependency})

    def note_fresh(self) -> None:
        """Learn that the dependency answers."""
        if self._in_episode:
            _log.warning("answers are fresh again", dependency=self._dependency, stale_answers=self._in_episode)
            self._in_episode = 0
