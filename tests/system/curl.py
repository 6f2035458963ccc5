"""Runs the real grpcurl in tests, and keeps what it was asked and answered.

A script named `grpcurl` runs it and writes the arguments, the output and the errors of each call into a folder.
"""

import importlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import Parse, ParseError
from google.protobuf.message_factory import GetMessageClass

from libs.cli.installation.environment import repository
from tests.support.secrecy import WATCH

PROGRAM: Final = Path(sys.prefix) / "bin" / "grpcurl"
needs_grpcurl = pytest.mark.needs(PROGRAM)

LONGEST_CALL_S: Final = 20
_SCRIPT = """#!/bin/sh
number=$(($(cat {calls}/count) + 1))
echo $number > {calls}/count
printf '%s\\0' "$@" > {calls}/$number.arguments
{program} -max-time {longest_s} "$@" > {calls}/$number.output 2> {calls}/$number.errors
status=$?
cat {calls}/$number.output
cat {calls}/$number.errors >&2
exit $status
"""
_CODE = re.compile(r"^  Code: (\w+)$", re.MULTILINE)


@dataclass(frozen=True)
class Answer:
    """The outcome of one call."""

    method: str
    code: str
    """Empty for success, else as grpcurl writes it, such as `NotFound`."""
    documents: list[object] = field(repr=False)
    errors: str = field(repr=False)


class Curl:
    """A program named `grpcurl` in a folder, and what came of its calls."""

    def __init__(self, folder: Path) -> None:
        self._calls = folder / "calls"
        self._calls.mkdir()
        (self._calls / "count").write_text("0")
        script = folder / "grpcurl"
        words = {"calls": self._calls, "program": PROGRAM, "longest_s": LONGEST_CALL_S}
        script.write_text(_SCRIPT.format(**{name: shlex.quote(str(word)) for name, word in words.items()}))
        script.chmod(0o700)
        (folder / "python3").symlink_to(sys.executable)

    @property
    def answers(self) -> list[Answer]:
        """The outcomes of the calls so far, in their order. The secrets of the messages are noted."""
        return [self._answer(number) for number in range(1, int((self._calls / "count").read_text()) + 1)]

    def _answer(self, number: int) -> Answer:
        arguments = (self._calls / f"{number}.arguments").read_text().split("\0")[:-1]
        errors = (self._calls / f"{number}.errors").read_text()
        documents = list(_documents((self._calls / f"{number}.output").read_text()))
        path = arguments[-1]
        if "-d" in arguments:
            _note_secrets(_method(path), arguments[arguments.index("-d") + 1], documents)
        refused = _CODE.search(errors)
        code = refused[1] if refused else ""
        # A stream is watched for a limited time, so that reaching the limit is no error.
        if documents and code == "DeadlineExceeded":
            code = ""
        return Answer(path.removeprefix("tollhouse."), code, documents, errors)


def _documents(output: str) -> Iterator[object]:
    """Yield the JSON documents that follow one another; none where the output is no JSON, as after `describe`."""
    decoder, at = json.JSONDecoder(), 0
    while rest := output[at:].lstrip():
        at = len(output) - len(rest)
        try:
            document, at = decoder.raw_decode(output, at)
        except ValueError:
            return
        yield document


def _note_secrets(method: MethodDescriptor, asked: str, documents: list[object]) -> None:
    messages = [(method.input_type, asked), *((method.output_type, json.dumps(document)) for document in documents)]
    for kind, text in messages:
        try:
            WATCH.note_message(Parse(text, GetMessageClass(kind)(), ignore_unknown_fields=True))
        except ParseError:
            # A field mask, which grpcurl takes as a message and the library as text: such requests hold no secrets.
            continue


def _method(path: str) -> MethodDescriptor:
    service, _, name = path.partition("/")
    return descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]


def rpcs_of(*packages: str) -> set[str]:
    """Every RPC that the protos of these packages declare, such as `identity.v1.UserService/GetUser`."""
    root = repository() / "protos"
    found: set[str] = set()
    for package in packages:
        for path in sorted(root.glob(f"tollhouse/{package}/v1/*_pb2.py")):
            importlib.import_module(".".join(path.relative_to(root).with_suffix("").parts))
            proto = descriptor_pool.Default().FindFileByName(str(path.relative_to(root)).replace("_pb2.py", ".proto"))
            for service in proto.services_by_name.values():
                found |= {f"{service.full_name}/{method.name}".removeprefix("tollhouse.") for method in service.methods}
    return found
