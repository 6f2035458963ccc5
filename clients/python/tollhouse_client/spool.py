"""A small write-ahead file for what must survive a crash: messages are in it until they are confirmed.

A spool is a folder with a lock and numbered segments. A segment has one message a line, with its checksum, and is
removed when each of its messages is confirmed. What a line says is acknowledged only after fsync, so a torn last line
was acknowledged to nobody and is left out. Not for several processes: the lock refuses a second one.
"""

import base64
import binascii
import logging
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from weakref import WeakSet

from tollhouse_client.errors import SpoolFull, SpoolInUse

_log: Final = logging.getLogger("tollhouse_client")
_SEGMENT_BYTES: Final = 1_000_000
_SUFFIX: Final = ".spool"
_DAMAGED: Final = ".damaged"
_NUMBER: Final = "[0-9]" * 12
REFUSED: Final = "refused"
"""The file in a spool's folder that keeps what metering has refused for good, in the format of a segment."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A message, what kind it is (one letter), and the segment that it is in."""

    kind: str
    message: bytes
    segment: int


class Spool:
    """The folder. Its methods block; `append` waits for the disk. They may be called by several threads."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        """Open the folder, and make it where it is missing. `bytes_max` bounds the size of all segments together.

        Raises:
            SpoolInUse: another process, or another recorder of this one, has it open.
            OSError: it cannot be opened.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._bytes_max = bytes_max
        self._locks = _lock(folder)
        self._sizes: dict[int, int] = {}
        self._open_entries: dict[int, int] = {}
        """How many entries of each segment are not confirmed."""
        self._damaged: set[int] = set()
        self._active = 0
        self._file = -1
        self._busy = threading.Lock()
        _open.add(self)

    @property
    def size_bytes(self) -> int:
        """The size of all segments."""
        return sum(self._sizes.values())

    def read(self) -> list[Entry]:
        """Return what earlier processes have left, in the order in which it was taken. Call it once, first."""
        entries: list[Entry] = []
        self._active = max((int(path.stem) for path in self._folder.glob(f"{_NUMBER}{_DAMAGED}")), default=0)
        for path in sorted(self._folder.glob(f"{_NUMBER}{_SUFFIX}")):
            number = int(path.stem)
            self._active = max(self._active, number)
            found = list(self._read_segment(path, number))
            entries += found
            self._sizes[number] = path.stat().st_size
            self._open_entries[number] = len(found)
            if not found:
                self._remove(number)
        return entries

    def append(self, messages: Sequence[tuple[str, bytes]]) -> list[Entry]:
        """Write messages and return when they are on the disk.

        Raises:
            SpoolFull: the spool or its disk is full, or the disk fails. None of the messages was taken.
            SpoolInUse: this process was forked from the one that has it open.
        """
        if not self._locks:
            raise SpoolInUse(f"The spool {self._folder} belongs to the process from which this one was forked.")
        lines = b"".join(_line(kind, message) for kind, message in messages)
        with self._busy:
            self._append(lines, len(messages))
            return [Entry(kind, message, self._active) for kind, message in messages]

    def _append(self, lines: bytes, count: int) -> None:
        if self.size_bytes + len(lines) > self._bytes_max:
            raise SpoolFull(f"The spool {self._folder} holds {self.size_bytes} of {self._bytes_max} bytes.")
        try:
            if self._file < 0 or self._sizes[self._active] >= _SEGMENT_BYTES:
                self._begin_segment()
            _write_all(self._file, lines)
            os.fsync(self._file)
        except OSError as error:
            self._give_up_segment()
            raise SpoolFull(f"The spool {self._folder} cannot be written: {error.strerror}.") from error
        self._sizes[self._active] += len(lines)
        self._open_entries[self._active] += count

    def confirm(self, entries: Sequence[Entry]) -> None:
        """Note that messages need not be kept any longer."""
        with self._busy:
            self._confirm(entries)

    def _confirm(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._open_entries[entry.segment] -= 1
        for number in {entry.segment for entry in entries}:
            if self._open_entries[number]:
                continue
            if number != self._active or self._file < 0:
                self._remove(number)
            elif self._sizes[number]:
                try:
                    os.ftruncate(self._file, 0)
                    self._sizes[number] = 0
                except OSError:
                    self._give_up_segment()

    def set_aside(self, entry: Entry) -> None:
        """Keep a message that nobody will confirm, for somebody to look at, and return when it is on the disk.

        Raises:
            SpoolFull: what was set aside is as large as the spool may be.
            OSError: the disk fails.
        """
        line = _line(entry.kind, entry.message)
        with self._busy:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            file = os.open(self._folder / REFUSED, flags, 0o600)
            try:
                size = os.fstat(file).st_size
                if size + len(line) > self._bytes_max:
                    raise SpoolFull(f"The file {self._folder / REFUSED} is full: look at it, and move it away.")
                if size and os.pread(file, 1, size - 1) != b"\n":
                    line = b"\n" + line  # The line before is torn: its disk was full, or its machine failed.
                _write_all(file, line)
                os.fsync(file)
            finally:
                os.close(file)

    def close(self) -> None:
        """Let others open the folder. Safe to repeat."""
        if not self._locks:
            return  # In a forked process everything is the parent's.
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            if not self._open_entries[self._active]:
                self._remove(self._active)
        self._leave()

    def _leave(self) -> None:
        while self._locks:
            os.close(self._locks.pop())

    def _begin_segment(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            if not self._open_entries[self._active]:
                self._remove(self._active)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self._path(self._active + 1), flags, 0o600)
        self._active += 1
        self._sizes[self._active] = self._open_entries[self._active] = 0
        # The name of a new file is on the disk only when its folder is.
        folder = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _give_up_segment(self) -> None:
        """After a failed write nothing is known of what is behind the last good line: cut it off, and begin another."""
        if self._file < 0:
            return
        try:
            os.ftruncate(self._file, self._sizes[self._active])
        except OSError:
            pass  # What is left of the line is torn, and is left out when it is read.
        os.close(self._file)
        self._file = -1
        if not self._open_entries[self._active]:
            self._remove(self._active)

    def _remove(self, number: int) -> None:
        path = self._path(number)
        try:
            if number in self._damaged:
                path.rename(path.with_suffix(_DAMAGED))
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            # The next process sends it again, which changes nothing.
            _log.error("The segment %s cannot be removed: %s", path, error.strerror)
        del self._sizes[number], self._open_entries[number]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}{_SUFFIX}"

    def _read_segment(self, path: Path, number: int) -> Iterator[Entry]:
        *lines, torn = path.read_bytes().split(b"\n")
        if torn:
            _log.info("The last line of %s is torn: it was acknowledged to nobody.", path)
        for line in lines:
            entry = _entry(line, number)
            if entry is None:
                self._damaged.add(number)
                _log.error("A line of %s is damaged; the file is kept as .damaged.", path)
            else:
                yield entry


def _lock(folder: Path) -> list[int]:
    """Lock a folder, and the file in it that versions before have locked; return what keeps the locks.

    The file alone is not enough: what cleans up old files may remove it, and another process would lock a new one.
    """
    import fcntl  # Not on Windows, where the rest of the package works.

    locks: list[int] = []
    try:
        for path, flags in ((folder / "lock", os.O_RDWR | os.O_CREAT), (folder, os.O_RDONLY)):
            locks.append(os.open(path, flags | os.O_CLOEXEC, 0o600))
            fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        for lock in locks:
            os.close(lock)
        if isinstance(error, BlockingIOError):
            raise SpoolInUse(f"Another recorder has the spool {folder} open.") from None
        raise
    return locks


_open: Final[WeakSet[Spool]] = WeakSet()


def _leave_to_parent() -> None:
    """In a forked process: let go of the spools' locks, or the parent could not open its folders again."""
    for spool in list(_open):
        spool._leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _line(kind: str, message: bytes) -> bytes:
    body = kind.encode() + b" " + base64.b64encode(message)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _entry(line: bytes, segment: int) -> Entry | None:
    checksum, _, body = line.partition(b" ")
    kind, _, message = body.partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(body):
            return None
        return Entry(kind.decode(), base64.b64decode(message, validate=True), segment)
    except (ValueError, binascii.Error):
        return None


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
