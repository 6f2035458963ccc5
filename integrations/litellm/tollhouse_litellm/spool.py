"""A file of settlements that metering has not confirmed, so that a proxy that is killed loses none.

Each process has a file of its own, which it holds a lock on. A process that starts takes over what the files of ended
processes have. A line is a settlement or the operation id of one that is done; a line that was cut off by a crash is
left out, since the answer it belongs to was never given.
"""

import base64
import binascii
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from tollhouse.metering.v1.admission_pb2 import SettleRequest

_FILES_MAX: Final = 256
_EMPTIED_FROM_BYTES: Final = 256 * 1024
_PENDING_MAX: Final = 50_000
_FILE_MAX_BYTES: Final = 512 * 1024 * 1024


class SpoolFull(Exception):
    """No more settlements can be kept: too many wait, or the disk is full."""


class Spool:
    """The file of this process. `pending` are the settlements that are not done, by operation id."""

    def __init__(self, folder: Path) -> None:
        """Take a free file in the folder, and what ended processes have left there.

        Raises:
            OSError: the folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.pending: dict[str, SettleRequest] = {}
        self._refused = folder / "refused.jsonl"
        self._file = -1
        for number in range(_FILES_MAX):
            path = folder / f"settlements-{number}.jsonl"
            file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            if not _lock(file):
                os.close(file)
            elif self._file < 0:
                self._file, self.pending = file, _read(path)
                self._end_line()
            else:
                self._take_over(file, path)
            if not (folder / f"settlements-{number + 1}.jsonl").exists() and self._file >= 0:
                return
        raise OSError(f"There are {_FILES_MAX} processes with a file in {folder} already.")

    def keep(self, request: SettleRequest) -> None:
        """Write a settlement down. When this returns, it survives the end of the process.

        Raises:
            SpoolFull: it could not be written.
        """
        if not self.has_room:
            raise SpoolFull
        self._write({"settle": _encoded(request)})
        self.pending[request.operation_id] = request

    def done(self, operation_id: str) -> None:
        """Note that a settlement needs no more sending."""
        if self.pending.pop(operation_id, None) is None:
            return
        if not self.pending and os.fstat(self._file).st_size > _EMPTIED_FROM_BYTES:
            os.ftruncate(self._file, 0)
            return
        try:
            self._write({"done": operation_id})
        except SpoolFull:
            pass  # It is sent again after the next start, which does no harm.

    def refuse(self, request: SettleRequest, reason: str) -> None:
        """Set a settlement aside that metering will never take, for people to look at."""
        line = json.dumps({"operation_id": request.operation_id, "reason": reason, "settle": _encoded(request)})
        with self._refused.open("a") as file:
            file.write(line + "\n")
        self.done(request.operation_id)

    @property
    def has_room(self) -> bool:
        """Whether more settlements can be kept, as far as is known."""
        return len(self.pending) < _PENDING_MAX and os.fstat(self._file).st_size < _FILE_MAX_BYTES

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _take_over(self, file: int, path: Path) -> None:
        for request in _read(path).values():
            self.keep(request)
        os.ftruncate(file, 0)
        os.close(file)

    def _end_line(self) -> None:
        if os.fstat(self._file).st_size:
            os.write(self._file, b"\n")

    def _write(self, record: Mapping[str, str]) -> None:
        line = json.dumps(record).encode() + b"\n"
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise SpoolFull from error
        if written < len(line):
            self._end_line()
            raise SpoolFull


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> dict[str, SettleRequest]:
    pending: dict[str, SettleRequest] = {}
    for record in _records(path):
        done, data = record.get("done"), record.get("settle")
        if isinstance(done, str):
            pending.pop(done, None)
        elif isinstance(data, str):
            try:
                request = SettleRequest.FromString(base64.b64decode(data, validate=True))
            except (binascii.Error, DecodeError):
                continue
            pending[request.operation_id] = request
    return pending


def _records(path: Path) -> Iterator[Mapping[str, object]]:
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record


def _encoded(request: SettleRequest) -> str:
    return base64.b64encode(request.SerializeToString()).decode()
