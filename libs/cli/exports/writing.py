"""Writes an export into a file that is whole or not there.

Beside FILE stand `FILE.part`, what was received until now, and `FILE.resume`, how far that is safe and the token with
which the stream goes on. After a kill the part is cut to what is safe, and the next byte follows. At the end come the
manifest, the end of `FILE.resume`, and the name FILE, in this order: whatever is killed, a FILE has its manifest.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from libs.cli.exports.parquet import write_parquet
from libs.cli.failures import CommandFailed, WrongUse
from libs.cli.terminal.progress import Progress
from libs.common.status import reason_of
from tollhouse.metering.v1 import usage_pb2 as pb
from tollhouse.metering.v1 import usage_pb2_grpc

PARQUET: Final = "parquet"
_STEP: Final = "rows"
_SAFE_EVERY_S: Final = 1.0
_STREAM_TIMEOUT_S: Final = 3_600.0
_ATTEMPTS: Final = 8
"""How often a stream may break without one piece more."""
_PAUSE_MAX_S: Final = 5.0
_BROKEN: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)


class Target:
    """The names of an export's files."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.part = file.with_name(f"{file.name}.part")
        self.resume = file.with_name(f"{file.name}.resume")
        self.packed = file.with_name(f"{file.name}.packed")
        self.manifest = manifest_of(file)


def manifest_of(file: Path) -> Path:
    """Return where the manifest of a file is."""
    return file.with_name(f"{file.name}.manifest.json")


async def write_export(
    stub: usage_pb2_grpc.UsageServiceStub,
    request: pb.ExportUsageRequest,
    file: Path,
    words: Mapping[str, object],
    *,
    resume: bool,
    progress: Progress,
) -> Mapping[str, object]:
    """Write the file and its manifest; return the manifest.

    `words` are the options as they were typed, which a resumed export must have again. It has the times of the first.

    Raises:
        CommandFailed: the file is there already, another export of it is under way, or the stream broke too often.
    """
    target = _target(file, resume=resume)
    with _locked(target.part) as part:
        async with _Saving(_Resumable(target, request, words), part) as saving:
            manifest = await _receive(stub, saving, progress)
        progress.note("finishing", manifest.row_count)
        return await asyncio.to_thread(_finish, target, manifest, str(words["format"]))


def _target(file: Path, *, resume: bool) -> Target:
    target = Target(file)
    if file.exists():
        raise WrongUse(f"{file} is there already.")
    if not resume and target.part.exists() and target.part.stat().st_size:
        raise WrongUse(f"{target.part} is an export that was not finished: go on with --resume, or delete it.")
    return target


def _finish(target: Target, manifest: pb.UsageExportManifest, form: str) -> Mapping[str, object]:
    """Make the file of the whole part, and return the manifest, which stands before it."""
    whole = target.part
    if form == PARQUET:
        write_parquet(target.part, target.packed)
        whole = target.packed
        with whole.open("rb") as packed:
            os.fsync(packed.fileno())
    document = {
        **MessageToDict(manifest, preserving_proto_field_name=True),
        "file_format": form,
        "file": {"size": whole.stat().st_size, "sha256": sha256_of(whole)},
    }
    _write_whole(target.manifest, document)
    for left in (target.resume, _new(target.resume)):
        left.unlink(missing_ok=True)
    os.replace(whole, target.file)
    target.part.unlink(missing_ok=True)
    _sync_folder(target.file)
    return document


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    with part.open("a+b") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CommandFailed(f"Another export writes {part}.") from None
        yield opened


async def _receive(
    stub: usage_pb2_grpc.UsageServiceStub, saving: "_Saving", progress: Progress
) -> pb.UsageExportManifest:
    """Append what comes to the part until it is whole; a stream that breaks is begun again where it broke."""
    part, attempts = saving.part, 0
    size, request = saving.resumable.find()
    part.truncate(size)
    part.seek(size)
    while True:
        try:
            async for piece in _pieces(stub, request):
                if not piece.resume_token and not piece.HasField("manifest"):
                    continue  # It says to readers over HTTP that the error follows.
                attempts = 0
                part.write(piece.body.data)
                progress.note(_STEP, piece.row_count)
                if piece.HasField("manifest"):
                    _make_safe(part)
                    if part.tell() != piece.manifest.byte_count:
                        raise CommandFailed(f"{part.name} has another size than was sent: delete it, and begin again.")
                    return piece.manifest
                request.resume_token = piece.resume_token
                await saving.save_at_times(request)
        except grpc.aio.AioRpcError as error:
            attempts += 1
            if error.code() not in _BROKEN or attempts > _ATTEMPTS:
                await saving.save(request)
                raise
            waiting = f"waiting, since {reason_of(error) or error.code().name}"
            progress.note(waiting)
            await asyncio.sleep(min(0.1 * 2**attempts, _PAUSE_MAX_S))
            progress.end(waiting)


async def _pieces(
    stub: usage_pb2_grpc.UsageServiceStub, request: pb.ExportUsageRequest
) -> AsyncIterator[pb.ExportUsageResponse]:
    call: grpc.aio.UnaryStreamCall[pb.ExportUsageRequest, pb.ExportUsageResponse] = stub.ExportUsage(
        request, timeout=_STREAM_TIMEOUT_S
    )
    async for piece in call:
        yield piece


@dataclass(frozen=True, slots=True)
class _Resumable:
    """How far a part is safe, in a file of its own."""

    target: Target
    request: pb.ExportUsageRequest
    words: Mapping[str, object]

    def find(self) -> tuple[int, pb.ExportUsageRequest]:
        """Return how much of the part is safe, and the request for what follows."""
        target, afresh = self.target, pb.ExportUsageRequest()
        afresh.CopyFrom(self.request)
        try:
            saved = json.loads(target.resume.read_bytes())
            size, words, request = int(saved["size"]), saved["words"], saved["request"]
            resumed = ParseDict(request, pb.ExportUsageRequest())
        except FileNotFoundError:
            return 0, afresh
        except (ValueError, KeyError, TypeError, ParseError):
            raise CommandFailed(f"{target.resume} is damaged: delete it and {target.part}.") from None
        if not size:
            return 0, afresh  # Nothing was received, such as where the request was refused.
        if words != self.words:
            raise WrongUse(f"{target.part} was begun with other options.")
        return (size, resumed) if size <= target.part.stat().st_size else (0, afresh)

    def save(self, part: BinaryIO, size: int, request: pb.ExportUsageRequest) -> None:
        """Note that so much of the part is safe, and what follows it."""
        _make_safe(part)
        document = {
            "size": size,
            "words": self.words,
            "request": MessageToDict(request, preserving_proto_field_name=True),
        }
        _write_whole(self.target.resume, document)


class _Saving:
    """Makes a part safe each second, while more of it is received."""

    def __init__(self, resumable: _Resumable, part: BinaryIO) -> None:
        self.resumable = resumable
        self.part = part
        self._began_s = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "_Saving":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def save_at_times(self, request: pb.ExportUsageRequest) -> None:
        """Begin to save what the part has, which `request` follows, unless that was begun just now."""
        if time.monotonic() - self._began_s > _SAFE_EVERY_S:
            await self._end()
            self._began_s, self._task = time.monotonic(), asyncio.create_task(self._save(request))

    async def save(self, request: pb.ExportUsageRequest) -> None:
        """Save what the part has, which `request` follows."""
        await self._end()
        await self._save(request)

    async def _save(self, request: pb.ExportUsageRequest) -> None:
        following = pb.ExportUsageRequest()
        following.CopyFrom(request)
        await asyncio.to_thread(self.resumable.save, self.part, self.part.tell(), following)

    async def _end(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            await task


def _make_safe(part: BinaryIO) -> None:
    part.flush()
    os.fsync(part.fileno())


def _write_whole(path: Path, document: object) -> None:
    """Write a file that is whole or as it was before."""
    written = _new(path)
    with written.open("w", encoding="utf-8") as opened:
        json.dump(document, opened, indent=2)
        opened.write("\n")
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(written, path)


def _new(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _sync_folder(file: Path) -> None:
    folder = os.open(file.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
