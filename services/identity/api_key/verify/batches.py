"""BatchVerifyApiKeys: many presented secrets at once, each with an outcome of its own.

What memory knows is answered first. Each different secret that is left is looked up once: the requests that name it are
asked one after another, so all but the first find it in the cache.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from libs.common.addresses import site_of
from libs.common.deadline import time_for_peer_s
from libs.common.errors import Unavailable
from services.identity.api_key.verify.verification import Answer, Verifier
from services.identity.errors import RevisionNotReached, TooManyUnknownKeys

LOOK_UPS_MAX: Final = 128
"""How many secrets of batches are looked up at once in this process: half of what one statement reads, so that a secret
that is presented alone finds a place in the next statement."""
LOOK_UPS_WITHIN_S: Final = 2.0
"""For how long a batch waits for its look-ups: what memory knew waits with them."""

A = TypeVar("A")


class Asked(NamedTuple):
    """One request about a presented secret."""

    key: str
    required_scopes: Sequence[str]
    model: str
    min_revision: int
    client_address: str


class Batches(Generic[A]):
    """Verifies secrets of batches."""

    def __init__(self, verifier: Verifier[A]) -> None:
        self._verifier = verifier
        self._turns = asyncio.Semaphore(LOOK_UPS_MAX)

    async def verify(self, asked: Sequence[Asked]) -> list[Answer[A] | Exception]:
        """Return for each request what `Verifier.verify` returns or raises."""
        outcomes: list[Answer[A] | Exception | None] = [self._verifier.known(*one) for one in asked]
        by_key: dict[str, list[int]] = {}
        for place, one in enumerate(asked):
            if outcomes[place] is None:
                by_key.setdefault(one.key, []).append(place)
        if by_key:
            await self._look_up(asked, list(by_key.values()), outcomes)
        return [Unavailable(dependency="database") if outcome is None else outcome for outcome in outcomes]

    async def _look_up(
        self, asked: Sequence[Asked], groups: Sequence[list[int]], outcomes: list[Answer[A] | Exception | None]
    ) -> None:
        """Look up secrets, of which each group of places names one, as far as there is time."""
        by_site: dict[str, list[list[int]]] = {}
        for places in groups:
            by_site.setdefault(site_of(asked[places[0]].client_address), []).append(places)
        try:
            async with asyncio.timeout(time_for_peer_s(LOOK_UPS_WITHIN_S)):
                await asyncio.gather(*(self._look_up_of_site(asked, those, outcomes) for those in by_site.values()))
        except TimeoutError:
            return

    async def _look_up_of_site(
        self, asked: Sequence[Asked], groups: Sequence[list[int]], outcomes: list[Answer[A] | Exception | None]
    ) -> None:
        """Look up secrets from one address: at once as many as it may guess, so that its limit holds meanwhile."""
        waiting = deque(groups)
        while waiting:
            address = asked[waiting[0][0]].client_address
            at_once = max(self._verifier.guesses_left(address), 1) if address else len(waiting)
            now = [waiting.popleft() for _ in range(min(at_once, len(waiting)))]
            await asyncio.gather(*(self._ask_in_turn(asked, places, outcomes) for places in now))

    async def _ask_in_turn(
        self, asked: Sequence[Asked], places: Sequence[int], outcomes: list[Answer[A] | Exception | None]
    ) -> None:
        async with self._turns:
            # The lowest revision first: what was read for it is an answer to all that ask for no later one.
            in_order = sorted(places, key=lambda place: asked[place].min_revision)
            for number, place in enumerate(in_order):
                try:
                    outcomes[place] = await self._verifier.verify(*asked[place])
                except TooManyUnknownKeys as refusal:
                    # Another address may have guesses left.
                    outcomes[place] = refusal
                except RevisionNotReached as refusal:
                    newest = refusal.facts["revision"]
                    for later in in_order[number:]:
                        outcomes[later] = RevisionNotReached(min_revision=asked[later].min_revision, revision=newest)
                    return
                except Exception as error:  # noqa: BLE001 -- an error about one secret is the outcome of its requests.
                    for later in in_order[number:]:
                        outcomes[later] = error
                    return
