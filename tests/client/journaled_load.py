"""`python -m tests.client.journaled_load JOURNAL STOP_FILE RICH POOR` works through the client with 64 callers, until
the stop file is there, and keeps a journal of what it was told.

A line is written before a call is begun and after it has its outcome. A process that finds the journal of a killed one
first makes the calls without an outcome again, with the same ids.
"""

import asyncio
import os
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final

from tollhouse.metering.v1 import admission_pb2, usage_pb2
from tollhouse.metering.v1.model_pb2 import TokenCounts
from tollhouse_client import Client, Retries
from tollhouse_client.errors import Denied, TollhouseError

MODEL: Final = "kill-model"
TOKENS: Final = TokenCounts(input=1000, output=100)
CALLERS: Final = 64
RESULTS: Final = ("done", "refused")


def read_journal(path: Path) -> dict[str, str]:
    """Return the last word on each operation; a torn last line is none."""
    words: dict[str, str] = {}
    *lines, _ = path.read_text().split("\n") if path.exists() else [""]
    for line in lines:
        word, operation_id = line.split(" ")
        words[operation_id] = word
    return words


class Load:
    """The callers of one process."""

    def __init__(self, client: Client, journal: Path, stop: Path, rich: str, poor: str) -> None:
        self._client = client
        self._stop = stop
        self._organizations = {"rich": rich, "poor": poor}
        words = read_journal(journal)
        self._unfinished = [operation_id for operation_id, word in words.items() if word not in RESULTS]
        self._file = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # What a killed process has half written ends here.
        os.write(self._file, b"\n" if journal.read_bytes()[-1:] not in (b"", b"\n") else b"")
        self._numbers: Iterator[int] = count(len(words))

    async def run(self) -> None:
        await asyncio.gather(*(self._work() for _ in range(CALLERS)))

    async def _work(self) -> None:
        while self._unfinished or not self._stop.exists():
            operation_id = self._unfinished.pop() if self._unfinished else self._next_id()
            self._note("begun", operation_id)
            self._note(await self._outcome(operation_id), operation_id)

    def _next_id(self) -> str:
        number = next(self._numbers)
        kind = ("usage", "pair")[number % 2]
        return f"{'poor' if number % 10 == 1 else 'rich'}-{kind}-{number}"

    async def _outcome(self, operation_id: str) -> str:
        while True:
            try:
                await self._call(operation_id)
            except Denied:
                return "refused"
            except TollhouseError:
                await asyncio.sleep(0.02)  # It is not known whether it was carried out, so it is made again.
            else:
                return "done"

    async def _call(self, operation_id: str) -> None:
        payer, kind, _ = operation_id.split("-")
        organization_id = self._organizations[payer]
        if kind == "usage":
            usage = usage_pb2.RecordUsageRequest(
                operation_id=operation_id, organization_id=organization_id, model=MODEL, tokens=TOKENS
            )
            await self._client.record_usage(usage)
            return
        answer = await self._client.authorize(
            admission_pb2.AuthorizeRequest(
                operation_id=operation_id,
                principal=admission_pb2.Principal(organization_id=organization_id),
                model=MODEL,
                input_tokens=TOKENS.input,
                max_output_tokens=TOKENS.output,
            )
        )
        ended = admission_pb2.DENIAL_REASON_AUTHORIZATION_ENDED
        if answer.decision != admission_pb2.DECISION_ALLOWED and answer.denial.reason != ended:
            raise Denied(answer.denial)
        await self._client.settle(
            admission_pb2.SettleRequest(
                operation_id=operation_id, organization_id=organization_id, model=MODEL, tokens=TOKENS
            )
        )

    def _note(self, word: str, operation_id: str) -> None:
        os.write(self._file, f"{word} {operation_id}\n".encode())


async def main(journal: str, stop: str, rich: str, poor: str) -> None:
    """Run until told to stop. Addresses and credentials come from the environment."""
    async with Client(timeout_s=5, retries=Retries(pause_s=0.01, pause_max_s=0.1)) as client:
        await Load(client, Path(journal), Path(stop), rich, poor).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
