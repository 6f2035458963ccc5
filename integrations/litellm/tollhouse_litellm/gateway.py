"""This proxy's connection to Tollhouse: one client, one cache of keys and one recorder for each process."""

import asyncio
import logging
import os
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from tollhouse.metering.v1.admission_pb2 import AuthorizeRequest, AuthorizeResponse, CancelRequest, SettleRequest
from tollhouse.metering.v1.admission_pb2_grpc import AdmissionServiceStub
from tollhouse_client import Client
from tollhouse_client.errors import SpoolInUse, TollhouseError, Unavailable, denied_of
from tollhouse_client.key_cache import KeyAnswer, KeyCache
from tollhouse_client.recorder import Recorder

_log: Final = logging.getLogger("tollhouse_litellm")
_AUTHORIZE_WITHIN_S: Final = 5.0
_SETTLE_WITHIN_S: Final = 30.0
_WORKERS_MAX: Final = 256
# Above this new calls are refused, so that those that were let in can still be recorded.
_WAITING_MAX: Final = 40_000


class Gateway:
    """Verifies keys, authorizes calls, and sends settlements until metering has each. Use it within one event loop."""

    def __init__(self, client: Client, keys: KeyCache, recorder: Recorder, stack: AsyncExitStack) -> None:
        self._client = client
        self._keys = keys
        self._recorder = recorder
        self._stack = stack
        self._is_full = False
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def from_environment(cls) -> "Gateway":
        """Connect as the environment says, and send what an earlier process could not.

        Raises:
            ValueError: an address or the credentials are missing or wrong.
            OSError: a file cannot be read, or the spool's folder not written.
        """
        folder = Path(os.environ.get("TOLLHOUSE_LITELLM_SPOOL") or "tollhouse-spool")
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(Client())
            keys = await stack.enter_async_context(KeyCache(client))
            recorder = await _open_recorder(client, folder, stack)
            return cls(client, keys, recorder, stack.pop_all())

    async def close(self) -> None:
        """Send what can be sent now, and close the connections."""
        await self._stack.aclose()

    async def verify(self, key: str, client_address: str) -> KeyAnswer:
        """Tell whether a key is good, from memory where that is certain.

        Raises:
            TollhouseError: nobody can say.
        """
        return await self._keys.verify(key, client_address=client_address)

    async def authorize(self, request: AuthorizeRequest) -> AuthorizeResponse:
        """Ask whether a call may begin.

        Raises:
            Denied: it may not.
            TollhouseError: nobody can say, or its settlement could not be kept. No work may begin.
        """
        if self._recorder.waiting >= _WAITING_MAX or (self._is_full and self._recorder.waiting):
            raise Unavailable("Too many settlements wait for metering.")
        self._is_full = False
        answer = await self._client.authorize(request, timeout_s=_AUTHORIZE_WITHIN_S)
        if answer.HasField("denial"):
            raise denied_of(answer)
        return answer

    async def settle(self, request: SettleRequest) -> None:
        """Take a settlement. When this returns it is on the disk, and is sent even if the process is killed."""
        try:
            await self._recorder.settle_later(request)
        except TollhouseError as error:
            # The work is done: it is charged from memory, and no other work begins until there is room.
            self._is_full = True
            _log.error("The settlement of %s is in memory alone: %s", request.operation_id, error)
            self._start(self._settle_now(request))

    def cancel(self, organization_id: str, operation_id: str) -> None:
        """Give up a call for which no work was done. If that fails, its hold ends by itself."""
        self._start(self._cancel(CancelRequest(organization_id=organization_id, operation_id=operation_id)))

    async def _settle_now(self, request: SettleRequest) -> None:
        try:
            await self._client.settle(request, timeout_s=_SETTLE_WITHIN_S)
        except TollhouseError as error:
            _log.error("The settlement of %s is lost; its authorization lapses: %s", request.operation_id, error)

    async def _cancel(self, request: CancelRequest) -> None:
        try:
            await self._client.stub(AdmissionServiceStub).Cancel(request)
        except TollhouseError as error:
            _log.warning("%s was not cancelled; its hold ends by itself: %s", request.operation_id, error)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _open_recorder(client: Client, folder: Path, stack: AsyncExitStack) -> Recorder:
    """Open a spool for this process: LiteLLM may run several with one environment.

    Raises:
        SpoolInUse: more processes than there may be have one.
    """
    for number in range(_WORKERS_MAX):
        recorder = Recorder(client, folder / str(number))
        try:
            return await stack.enter_async_context(recorder)
        except SpoolInUse:
            continue
    raise SpoolInUse(f"{_WORKERS_MAX} processes have a spool in {folder} already.")
