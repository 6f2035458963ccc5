"""Asks identity which organizations exist, and caches the answers.

An organization that is known stays known: identity keeps a tombstone of a deleted one. So known ids are remembered for
as long as there is room. Unknown ids are remembered for a moment only, so that a new organization is taken at once.

While identity cannot be reached, every organization is taken as known: usage is never refused because a peer is down.
These are counted and logged, and `tollhouse verify` finds the ones that do not exist.
"""

import asyncio
import time
from collections.abc import Collection
from typing import Final

import grpc
import structlog
from opentelemetry import metrics

from libs.common.deadline import leave_deadline
from libs.common.errors import Overloaded
from tollhouse.identity.v1 import organization_pb2 as pb
from tollhouse.identity.v1 import organization_pb2_grpc as rpc

_log = structlog.get_logger("organizations")
METRIC: Final = "tollhouse.unchecked_organizations"

_BATCH_MAX: Final = 1_000
_KNOWN_MAX: Final = 100_000
_WAITING_MAX: Final = 20_000
_UNKNOWN_MAX: Final = 10_000
_UNKNOWN_FOR_S: Final = 2.0
_ASK_WITHIN_S: Final = 0.5
_ASK_AGAIN_AFTER_S: Final = 1.0
"""For how long after a failure identity is not asked again."""
_NONE: Final[frozenset[str]] = frozenset()


class Organizations:
    """Finds ids that are no organization's, with a cache."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._organizations: rpc.OrganizationServiceStub = rpc.OrganizationServiceStub(channel)
        self._known: dict[str, None] = {}
        self._unknown_until_s: dict[str, float] = {}
        self._waiting: dict[str, asyncio.Future[bool]] = {}
        self._asker: asyncio.Task[None] | None = None
        self._ask_again_s = 0.0
        self._unchecked_in_episode = 0
        self._counter = metrics.get_meter("tollhouse").create_counter(
            METRIC, description="Organizations taken as known because identity could not be reached."
        )

    async def find_unknown(self, organization_ids: Collection[str]) -> Collection[str]:
        """Return those of the ids, in lower case, that identity does not know.

        Raises:
            Overloaded: too many ids wait for identity's answer already.
        """
        doubtful = [id_ for id_ in organization_ids if id_ not in self._known]
        if not doubtful:
            return _NONE
        now_s = time.monotonic()
        unknown = {id_ for id_ in doubtful if self._unknown_until_s.get(id_, 0) > now_s}
        if len(self._waiting) + len(doubtful) > _WAITING_MAX:
            raise Overloaded
        asked = {id_: self._ask(id_) for id_ in set(doubtful) - unknown}
        for id_, answer in asked.items():
            # Shielded: if this caller is cancelled, the others still get the answer.
            if not await asyncio.shield(answer):
                unknown.add(id_)
        return unknown

    def _ask(self, organization_id: str) -> "asyncio.Future[bool]":
        """Return the pending answer for an id; ids that arrive while a request runs share the next request."""
        answer = self._waiting.get(organization_id)
        if answer is None:
            answer = self._waiting[organization_id] = asyncio.get_running_loop().create_future()
            if self._asker is None:
                self._asker = asyncio.create_task(self._ask_all(), name="organization check")
        return answer

    async def _ask_all(self) -> None:
        leave_deadline()
        try:
            while self._waiting:
                await asyncio.sleep(0)  # Calls that are being read at this moment share the request.
                ids = list(self._waiting)[:_BATCH_MAX]
                known = await self._known_of(ids)
                for id_ in ids:
                    self._waiting.pop(id_).set_result(known is None or id_ in known)
        finally:
            # Ids are left only after an unexpected failure or a shutdown. They are taken as known.
            self._asker = None
            for answer in self._waiting.values():
                answer.set_result(True)
            self._waiting.clear()

    async def _known_of(self, ids: Collection[str]) -> Collection[str] | None:
        """Ask identity and cache the answer; return None while it cannot be reached."""
        if time.monotonic() < self._ask_again_s:
            self._note_unchecked(len(ids))
            return None
        request = pb.CheckOrganizationsRequest(organization_ids=ids)
        try:
            answer = await self._organizations.CheckOrganizations(request, timeout=_ASK_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            self._ask_again_s = time.monotonic() + _ASK_AGAIN_AFTER_S
            self._note_unchecked(len(ids), error.code().name)
            return None
        self._note_checked()
        known = set(answer.known_organization_ids)
        self._remember(known, set(ids) - known)
        return known

    def _remember(self, known: Collection[str], unknown: Collection[str]) -> None:
        for id_ in known:
            self._known[id_] = None
            self._unknown_until_s.pop(id_, None)
        while len(self._known) > _KNOWN_MAX:
            del self._known[next(iter(self._known))]
        until_s = time.monotonic() + _UNKNOWN_FOR_S
        for id_ in unknown:
            self._unknown_until_s.pop(id_, None)
            self._unknown_until_s[id_] = until_s
        while len(self._unknown_until_s) > _UNKNOWN_MAX:
            del self._unknown_until_s[next(iter(self._unknown_until_s))]

    def _note_unchecked(self, count: int, code: str = "") -> None:
        if not self._unchecked_in_episode:
            _log.warning("identity cannot be reached; organizations are taken as known unchecked", code=code)
        self._unchecked_in_episode += count
        self._counter.add(count)

    def _note_checked(self) -> None:
        if self._unchecked_in_episode:
            _log.warning("organizations are checked again", unchecked=self._unchecked_in_episode)
            self._unchecked_in_episode = 0
