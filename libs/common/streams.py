"""The open streams of one kind: so many at most, each for so long at most, and all ended when the process stops."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from libs.common.errors import TooManyWatchers, Unavailable

_FIRST_NEWS_WITHIN_S: Final = 2.0


class Stream:
    """One open stream, whose subscriber sleeps until it is woken."""

    __slots__ = ("closed", "wake")

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.closed = False

    async def sleep(self) -> None:
        """Wait until there is something to send.

        Raises:
            Unavailable: this process is stopping.
        """
        await self.wake.wait()
        if self.closed:
            raise Unavailable(dependency="change feed")


_S = TypeVar("_S", bound=Stream)


class Streams(Generic[_S]):
    """The open streams of one kind in this process."""

    def __init__(self, streams_max: int, stream_life_s: float) -> None:
        self._streams_max = streams_max
        self._stream_life_s = stream_life_s
        self._open: set[_S] = set()
        self._started = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[_S]:
        return iter(self._open)

    def start(self) -> None:
        """Let streams begin: the feed has looked for the first time."""
        self._started.set()

    def close(self) -> None:
        """End all streams, so that a stopping server does not wait for them."""
        self._closed = True
        for stream in self._open:
            stream.closed = True
            stream.wake.set()

    async def started(self) -> None:
        """Wait until streams may begin.

        Raises:
            Unavailable: the feed has not looked yet, or this process is stopping.
        """
        try:
            async with asyncio.timeout(_FIRST_NEWS_WITHIN_S):
                await self._started.wait()
        except TimeoutError:
            raise Unavailable(dependency="change feed") from None
        if self._closed:
            raise Unavailable(dependency="change feed")

    @contextmanager
    def opened(self, stream: _S) -> Iterator[float]:
        """Keep a stream among the open ones; give the monotonic time at which it ends.

        Raises:
            TooManyWatchers: this process serves as many as it may.
        """
        if len(self._open) >= self._streams_max:
            raise TooManyWatchers(watchers=len(self._open))
        self._open.add(stream)
        try:
            yield time.monotonic() + self._stream_life_s
        finally:
            self._open.discard(stream)
