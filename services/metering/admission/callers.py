"""On whose behalf calls are made: keys are verified with identity, and principals' organizations are looked up.

The keys of a batch are asked for at the same time, each different one once, and all batches of the process together ask
only so many questions at once: a batch of unknown keys takes no more of identity than that. Keys that are cached, and
calls on their own, do not wait for these questions.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from libs.common.call import reaches
from services.metering.admission.domain import Denied, Request
from services.metering.clients.identity import VALID, IdentityClient, KeyAnswer, KeyPrincipal
from services.metering.clients.organizations import Organizations
from services.metering.errors import OrganizationNotFound

QUESTIONS_MAX: Final = 32
"""How many questions about keys of batches are with identity at once."""

_KEY_MESSAGES: Final = {
    "NOT_FOUND": "There is no such key.",
    "DISABLED": "The key is disabled.",
    "REVOKED": "The key is revoked.",
    "EXPIRED": "The key has expired.",
    "OWNER_INACTIVE": "The key's owner is not active.",
    "INSUFFICIENT_SCOPE": "The key lacks a required scope.",
    "MODEL_NOT_ALLOWED": "The key may not be used for this model.",
    "ADDRESS_NOT_ALLOWED": "The key may not be used from this address.",
}


class Caller(NamedTuple):
    """On whose behalf a call is made."""

    principal: KeyPrincipal
    stale_key: bool = False
    """Whether that rests on an answer about the key that may be out of date."""


class Callers:
    """Finds out on whose behalf calls are made."""

    def __init__(self, identity: IdentityClient, organizations: Organizations) -> None:
        self._identity = identity
        self._organizations = organizations
        self._questions = asyncio.Semaphore(QUESTIONS_MAX)

    async def identify(self, requests: Sequence[Request]) -> list[Caller | Denied | Exception]:
        """Return the caller of each request, the denial of its key, or why neither is known.

        Raises:
            Overloaded: too many organizations wait for identity's answer already.
        """
        found: dict[int, Caller | Denied | Exception] = {}
        doubtful: dict[tuple[str, int, str], list[int]] = {}
        for place, request in enumerate(requests):
            if request.secret is None:
                if request.principal is None:
                    raise ValueError("A caller has a key or a principal.")
                organization_id = request.principal.organization_id
                is_reached = reaches(organization_id)
                found[place] = (
                    Caller(request.principal) if is_reached else OrganizationNotFound(organization_id=organization_id)
                )
                continue
            answer = self._known(request, request.secret)
            if answer is None:
                doubtful.setdefault((request.secret, request.min_revision, request.client_address), []).append(place)
            else:
                found[place] = _caller(answer)
        if len(doubtful) == 1:
            ((secret, places),) = ((key[0], places) for key, places in doubtful.items())
            found.update(zip(places, await self._ask(secret, [requests[place] for place in places]), strict=True))
        elif doubtful:
            asked = (self._ask_in_turn(key[0], [requests[place] for place in group]) for key, group in doubtful.items())
            for group, callers in zip(doubtful.values(), await asyncio.gather(*asked), strict=True):
                found.update(zip(group, callers, strict=True))
        await self._refuse_unknown_organizations(requests, found)
        return [found[place] for place in range(len(requests))]

    async def of_key(
        self, secret: str, *, model: str, required_scopes: Sequence[str], client_address: str
    ) -> Caller | Denied:
        """Return on whose behalf a key acts, or why it may not be used.

        Raises:
            TooManyUnknownKeys: the address has presented more unknown keys than identity looks up.
            Unavailable: identity cannot be reached.
        """
        answer = await self._identity.verify(
            secret, model=model, required_scopes=required_scopes, min_revision=0, client_address=client_address
        )
        return _caller(answer)

    async def _ask_in_turn(self, secret: str, requests: Sequence[Request]) -> list[Caller | Denied | Exception]:
        async with self._questions:
            return await self._ask(secret, requests)

    async def _ask(self, secret: str, requests: Sequence[Request]) -> list[Caller | Denied | Exception]:
        """Ask identity about one key. Requests that differ only in what the cache decides share the answer.

        Where there is no such key, or it cannot be known whether there is, the first answer is the answer to all.
        """
        answers: dict[tuple[str, tuple[str, ...]], KeyAnswer] = {}
        callers: list[Caller | Denied | Exception] = []
        for request in requests:
            question = (request.model, tuple(request.required_scopes))
            answer = answers.get(question) or self._known(request, secret)
            if answer is None:
                try:
                    answer = await self._identity.verify(
                        secret,
                        model=request.model,
                        required_scopes=request.required_scopes,
                        min_revision=request.min_revision,
                        client_address=request.client_address,
                    )
                except Exception as error:  # noqa: BLE001 -- an error about one key is the outcome of its calls.
                    return callers + [error] * (len(requests) - len(callers))
            if answer.principal is None:
                return callers + [_caller(answer)] * (len(requests) - len(callers))
            answers[question] = answer
            callers.append(_caller(answer))
        return callers

    def _known(self, request: Request, secret: str) -> KeyAnswer | None:
        return self._identity.known(
            secret,
            model=request.model,
            required_scopes=request.required_scopes,
            min_revision=request.min_revision,
            client_address=request.client_address,
        )

    async def _refuse_unknown_organizations(
        self, requests: Sequence[Request], found: dict[int, Caller | Denied | Exception]
    ) -> None:
        """Put refusals in the places of principals whose organization identity does not know."""
        named = {
            request.principal.organization_id
            for request in requests
            if request.secret is None and request.principal is not None
        }
        unknown = await self._organizations.find_unknown(named) if named else ()
        if not unknown:
            return
        for place, request in enumerate(requests):
            if request.secret is None and request.principal is not None:
                organization_id = request.principal.organization_id
                if organization_id in unknown:
                    found[place] = OrganizationNotFound(organization_id=organization_id)


def _caller(answer: KeyAnswer) -> Caller | Denied:
    if not reaches(answer.principal.organization_id if answer.principal is not None else answer.organization_id):
        # To a gateway, the key of an organization that its own key does not reach is no key.
        return Denied("KEY_NOT_FOUND", _KEY_MESSAGES["NOT_FOUND"])
    if answer.code == VALID and answer.principal is not None:
        return Caller(answer.principal, answer.stale)
    message = _KEY_MESSAGES.get(answer.code, "The key may not be used.")
    return Denied(f"KEY_{answer.code}", message, principal=answer.principal, stale_key=answer.stale)
