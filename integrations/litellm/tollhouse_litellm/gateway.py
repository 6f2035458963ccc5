"""This proxy's connection to Tollhouse: one client, one cache of keys and one spool for each process."""

import asyncio
import logging
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Final

import grpc

from tollhouse.metering.v1.admission_pb2 import AuthorizeRequest, AuthorizeResponse, CancelRequest, SettleRequest
from tollhouse.metering.v1.admission_pb2_grpc import AdmissionServiceStub
from tollhouse_client import Client
from tollhouse_client.errors import TollhouseError, Unavailable, denied_of
from tollhouse_client.key_cache import KeyAnswer, KeyCache
from tollhouse_litellm.spool import Spool, SpoolFull

_log: Final = logging.getLogger("tollhouse_litellm")
_AUTHORIZE_WITHIN_S: Final = 10.0
_SETTLE_WITHIN_S: Final = 30.0
_SENDING_MAX: Final = 256
_PAUSES_S: Final = (0.2, 1.0, 5.0, 30.0)
# What a repeat may change: everything else would be refused again.
_FOR_NOW: Final = frozenset(
    {
        *(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED),
        *(grpc.StatusCode.ABORTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED),
        # The gateway's own credentials: its people can put them right.
        *(grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED),
    }
)


class Gateway:
    """Authorizes calls, and sends settlements until metering has each. Use it within one event loop."""

    def __init__(self, client: Client, spool: Spool) -> None:
        self.client = client
        self._keys = KeyCache(client)
        self._is_following = False
        self._spool = spool
        self._sending = asyncio.Semaphore(_SENDING_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        for request in list(spool.pending.values()):
            self._start(self._send(request))

    @classmethod
    def from_environment(cls) -> "Gateway":
        """Connect as the environment says. Settlements of an earlier process that were not confirmed are sent.

        Raises:
            ValueError: an address or the credentials are missing or wrong.
            OSError: a file cannot be read, or the spool's folder not written.
        """
        folder = os.environ.get("TOLLHOUSE_LITELLM_SPOOL") or "tollhouse-spool"
        return cls(Client(), Spool(Path(folder)))

    async def verify(self, key: str, client_address: str) -> KeyAnswer:
        """Tell whether a key is good, from memory where that is certain.

        Raises:
            TollhouseError: nobody can say.
        """
        if not self._is_following:
            self._is_following = True
            await self._keys.__aenter__()
        return await self._keys.verify(key, client_address=client_address)

    async def authorize(self, request: AuthorizeRequest) -> AuthorizeResponse:
        """Ask whether a call may begin.

        Raises:
            Denied: it may not.
            TollhouseError: nobody can say, or no settlement could be kept. No work may begin.
        """
        if not self._spool.has_room:
            raise Unavailable("Too many settlements wait for metering.")
        answer = await self.client.authorize(request, timeout_s=_AUTHORIZE_WITHIN_S)
        if answer.HasField("denial"):
            raise denied_of(answer)
        return answer

    def settle(self, request: SettleRequest) -> None:
        """Take a settlement. When this returns it is written down, so it is sent even if the process is killed."""
        try:
            self._spool.keep(request)
        except SpoolFull:
            _log.error("The spool takes no more: the settlement of %s is in memory alone.", request.operation_id)
        self._start(self._send(request))

    def cancel(self, organization_id: str, operation_id: str) -> None:
        """Give up a call for which no work was done. If that fails, its hold ends by itself."""
        self._start(self._cancel(CancelRequest(organization_id=organization_id, operation_id=operation_id)))

    async def close(self) -> None:
        """Send what can be sent now, and close the connections."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_AUTHORIZE_WITHIN_S)
        for task in self._tasks:
            task.cancel()
        await self._keys.close()
        await self.client.close()
        self._spool.close()

    async def _send(self, request: SettleRequest) -> None:
        """Send a settlement until metering has it, or refuses it for good."""
        attempt = 0
        while True:
            try:
                async with self._sending:
                    await self.client.settle(request, timeout_s=_SETTLE_WITHIN_S)
            except TollhouseError as error:
                if error.code not in _FOR_NOW:
                    _log.error("Metering refuses the settlement of %s: %s", request.operation_id, error)
                    self._spool.refuse(request, str(error))
                    return
                _log.warning("The settlement of %s waits: %s", request.operation_id, error)
            else:
                self._spool.done(request.operation_id)
                return
            await asyncio.sleep(_PAUSES_S[min(attempt, len(_PAUSES_S) - 1)])
            attempt += 1

    async def _cancel(self, request: CancelRequest) -> None:
        try:
            await self.client.stub(AdmissionServiceStub).Cancel(request)
        except TollhouseError as error:
            _log.warning("%s was not cancelled; its hold ends by itself: %s", request.operation_id, error)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
