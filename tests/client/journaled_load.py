"""Works through the client with 64 callers, until the stop file is there, and keeps a journal of what it was told.

A line is written before a call is begun and after it has its outcome. A process that finds the journal of a killed one
first makes the calls without an outcome again, with the same ids.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from tollhouse.billing.v1 import ledger_pb2
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import admission_pb2, usage_pb2
from tollhouse.metering.v1.model_pb2 import TokenCounts
from tollhouse_client import Client, KeyCache, Recorder, Retries
from tollhouse_client.errors import Denied, InsufficientBalance, TollhouseError

MODEL: Final = "kill-model"
TOKENS: Final = TokenCounts(input=1000, output=100)
COST: Final = "0.0035"
CALLERS: Final = 64
RESULTS: Final = ("done", "refused")
REFUSABLE: Final = ("pair", "debit", "block")
"""Usage is recorded for those who cannot pay, too: the work is done."""
_ENDED: Final = "AUTHORIZATION_ENDED"


@dataclass(frozen=True)
class Customer:
    """An organization, and a key of it."""

    organization_id: str
    key: str


@dataclass(frozen=True)
class Work:
    """What the callers are given."""

    folder: Path
    rich: Customer
    poor: Customer
    """Has no money."""

    @property
    def journal(self) -> Path:
        """What they were told."""
        return self.folder / "journal"

    @property
    def stop(self) -> Path:
        """When this file is there, they begin nothing more."""
        return self.folder / "stop"

    @property
    def spool(self) -> Path:
        """The recorder's folder."""
        return self.folder / "spool"


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

    def __init__(self, work: Work, client: Client, keys: KeyCache, recorder: Recorder) -> None:
        self._work = work
        self._client = client
        self._keys = keys
        self._recorder = recorder
        words = read_journal(work.journal)
        self._unfinished = [operation_id for operation_id, word in words.items() if word not in RESULTS]
        self._file = os.open(work.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # What a killed process has half written ends here.
        os.write(self._file, b"\n" if work.journal.read_bytes()[-1:] not in (b"", b"\n") else b"")
        self._numbers: Iterator[int] = count(len(words))
        self._ways: dict[str, Callable[[Customer, str], Awaitable[None]]] = {
            "usage": self._record_usage,
            "recorded": self._record,
            "debit": self._debit,
            "pair": self._authorize_and_settle,
            "block": self._run_block,
        }

    async def run(self) -> None:
        await asyncio.gather(*(self._call_on() for _ in range(CALLERS)))

    async def _call_on(self) -> None:
        while self._unfinished or not self._work.stop.exists():
            operation_id = self._unfinished.pop() if self._unfinished else self._next_id()
            self._note("begun", operation_id)
            self._note(await self._outcome(operation_id), operation_id)

    def _next_id(self) -> str:
        number = next(self._numbers)
        kinds = tuple(self._ways)
        kind = kinds[number % len(kinds)]
        return f"{'poor' if kind in REFUSABLE and number % 7 == 0 else 'rich'}-{kind}-{number}"

    async def _outcome(self, operation_id: str) -> str:
        payer, kind, _ = operation_id.split("-")
        customer = self._work.poor if payer == "poor" else self._work.rich
        while True:
            try:
                await self._ways[kind](customer, operation_id)
            except (Denied, InsufficientBalance) as refused:
                # A call that was settled cannot be authorized again.
                return "done" if refused.reason == _ENDED else "refused"
            except TollhouseError:
                await asyncio.sleep(0.02)  # It is not known whether it was carried out, so it is made again.
            else:
                return "done"

    async def _record_usage(self, customer: Customer, operation_id: str) -> None:
        await self._client.record_usage(_usage(customer, operation_id))

    async def _record(self, customer: Customer, operation_id: str) -> None:
        await self._recorder.record(_usage(customer, operation_id))

    async def _debit(self, customer: Customer, operation_id: str) -> None:
        amount = Amount(currency_code="USD", value=COST)
        await self._client.debit(
            ledger_pb2.DebitRequest(organization_id=customer.organization_id, operation_id=operation_id, amount=amount)
        )

    async def _authorize_and_settle(self, customer: Customer, operation_id: str) -> None:
        answer = await self._client.authorize(
            admission_pb2.AuthorizeRequest(
                operation_id=operation_id,
                principal=admission_pb2.Principal(organization_id=customer.organization_id),
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
                operation_id=operation_id, organization_id=customer.organization_id, model=MODEL, tokens=TOKENS
            )
        )

    async def _run_block(self, customer: Customer, operation_id: str) -> None:
        """Serve a call as a gateway does, with a key that is verified here."""
        answer = await self._keys.verify(customer.key)
        assert answer.key is not None, answer
        async with self._client.meter.authorize(
            principal=answer.key.principal(),
            model=MODEL,
            operation_id=operation_id,
            on_replay="allow",
            input_tokens=TOKENS.input,
            max_output_tokens=TOKENS.output,
        ) as call:
            call.used(quantities={"input_tokens": TOKENS.input, "output_tokens": TOKENS.output})

    def note_lost(self, operation_id: str, error: TollhouseError) -> None:
        """Write down that metering refused what the recorder had taken: that must not happen here."""
        self._note(f"lost:{error.reason}", operation_id)

    def _note(self, word: str, operation_id: str) -> None:
        os.write(self._file, f"{word} {operation_id}\n".encode())


def _usage(customer: Customer, operation_id: str) -> usage_pb2.RecordUsageRequest:
    return usage_pb2.RecordUsageRequest(
        operation_id=operation_id, organization_id=customer.organization_id, model=MODEL, tokens=TOKENS
    )


async def _run(work: Work) -> None:
    retries = Retries(pause_s=0.01, pause_max_s=0.1)
    loads: list[Load] = []
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(timeout_s=5, retries=retries))
        client.meter.settle_within_s = 1  # What takes longer goes through the recorder.
        keys = await stack.enter_async_context(KeyCache(client))
        recorder = Recorder(
            client,
            work.spool,
            on_refused=lambda request, error: loads[0].note_lost(request.operation_id, error),
            close_within_s=60,
        )
        loads.append(Load(work, client, keys, recorder))
        client.meter.settlements = await stack.enter_async_context(recorder)
        await loads[0].run()


def run_load(work: Work) -> None:
    """Run until told to stop. Addresses and credentials come from the environment."""
    asyncio.run(_run(work))
