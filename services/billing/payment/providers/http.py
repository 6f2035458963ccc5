"""Calls of a provider's API over HTTP: bounded in time, size and number of tries.

A request is tried again where the provider says that it may, and where nothing came back. Nothing is sent twice that
could be done twice: a request without the provider's idempotency key is repeated only if it reads, or if the
connection was never made.
"""

import asyncio
import json
import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import httpx
import structlog

from services.billing.payment.provider import ProviderDown, ProviderMisconfigured, Unreadable
from services.billing.payment.providers.reading import Json, as_object

_log = structlog.get_logger("providers")
# It logs the address of each request, which may name a customer.
logging.getLogger("httpx").setLevel(logging.WARNING)

TRIES_MAX: Final = 4
_WAIT_FIRST_S: Final = 0.3
_WAIT_MAX_S: Final = 5.0
_CONNECT_WITHIN_S: Final = 5.0
_ANSWER_WITHIN_S: Final = 20.0
"""How long the provider may be silent."""
_TRY_WITHIN_S: Final = 30.0
"""How long one try may take in all: an answer that trickles in is no answer."""
_ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024
_CONNECTIONS_MAX: Final = 8
_OVERLOADED: Final = 429
_CONFLICT: Final = 409
_ERRORS_FROM: Final = 500
_REDIRECTS: Final = range(300, 400)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the provider answered, below status 500 and not 429."""

    status: int
    document: Json

    @property
    def is_good(self) -> bool:
        return self.status < 300


@contextmanager
def readable_answers(provider: str) -> Iterator[None]:
    """Take an answer that is not what the provider documents as one that did not come.

    Raises:
        ProviderDown: in place of Unreadable.
    """
    try:
        yield
    except Unreadable as flaw:
        raise ProviderDown(f"The answer of {provider} is unreadable: {flaw}") from None


class Api:
    """One provider's API. It keeps connections open; `close` ends them."""

    def __init__(self, provider: str, url: str, headers: Mapping[str, str]) -> None:
        """`url` is what paths are appended to; `headers` are sent with each request, and are secret."""
        self._provider = provider
        self._url = url.rstrip("/")
        self._headers = dict(headers)
        self._client: httpx.AsyncClient | None = None

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Answer:
        """Read something.

        Raises:
            ProviderDown, ProviderMisconfigured: see `_send`.
        """
        return await self._send("GET", path, query=query, repeatable=True)

    async def post_form(self, path: str, form: Mapping[str, str], idempotency_key: str) -> Answer:
        """Send a form under an idempotency key.

        Raises:
            ProviderDown, ProviderMisconfigured: see `_send`.
        """
        headers = {"idempotency-key": idempotency_key}
        return await self._send("POST", path, form=form, headers=headers, repeatable=True)

    async def post_json(self, path: str, document: Mapping[str, object], *, repeatable: bool) -> Answer:
        """Send a document. `repeatable` says that it does no harm if it is done twice.

        Raises:
            ProviderDown, ProviderMisconfigured: see `_send`.
        """
        return await self._send("POST", path, body=json.dumps(document).encode(), repeatable=repeatable)

    async def patch_json(self, path: str, document: Mapping[str, object]) -> Answer:
        """Change something to what the document says, which does no harm if it is done twice.

        Raises:
            ProviderDown, ProviderMisconfigured: see `_send`.
        """
        return await self._send("PATCH", path, body=json.dumps(document).encode(), repeatable=True)

    async def delete(self, path: str) -> Answer:
        """End something, which does no harm if it is done twice.

        Raises:
            ProviderDown, ProviderMisconfigured: see `_send`.
        """
        return await self._send("DELETE", path, repeatable=True)

    async def close(self) -> None:
        """End the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _send(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool,
        query: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request until it is answered.

        Raises:
            ProviderDown: it was not answered in time, or with an error that may pass.
            ProviderMisconfigured: the provider refuses our key, or answers by a redirect, which is not followed.
        """
        for attempt in range(1, TRIES_MAX + 1):
            wait_s = min(_WAIT_MAX_S, _WAIT_FIRST_S * 2 ** (attempt - 1)) * random.uniform(0.5, 1)
            sent_nothing = False
            try:
                async with asyncio.timeout(_TRY_WITHIN_S):
                    status, asked_s, content = await self._exchange(method, path, query, form, body, headers)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                sent_nothing, problem = True, type(error).__name__
            except (httpx.HTTPError, TimeoutError) as error:
                problem = type(error).__name__
            else:
                if status not in (_OVERLOADED, _CONFLICT) and status < _ERRORS_FROM:
                    return self._answer(status, content)
                problem = f"status {status}"
                sent_nothing = status == _OVERLOADED
                wait_s = min(_WAIT_MAX_S, max(wait_s, asked_s))
            _log.warning("a provider did not answer", provider=self._provider, problem=problem, attempt=attempt)
            if attempt == TRIES_MAX or not (repeatable or sent_nothing):
                raise ProviderDown(f"{self._provider} did not answer: {problem}.")
            await asyncio.sleep(wait_s)
        raise AssertionError("the last try answers or raises")

    async def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        form: Mapping[str, str] | None,
        body: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> tuple[int, int, bytes]:
        """Send a request once; return the status, the seconds after which to ask again, and the body."""
        client = self._open()
        request = client.build_request(
            method,
            self._url + path,
            params=query,
            data=form,
            content=body,
            # A small compressed answer may be a huge one.
            headers={**self._headers, "accept-encoding": "identity", **(headers or {})},
        )
        answer = await client.send(request, stream=True)
        try:
            content = bytearray()
            async for part in answer.aiter_raw():
                content += part
                if len(content) > _ANSWER_BYTES_MAX:
                    raise httpx.DecodingError("the answer is too large")
            return answer.status_code, _seconds_to_wait(answer.headers.get("retry-after")), bytes(content)
        finally:
            await answer.aclose()

    def _answer(self, status: int, content: bytes) -> Answer:
        if status in (401, 403):
            raise ProviderMisconfigured(f"{self._provider} refuses our API key.")
        if status in _REDIRECTS:
            raise ProviderMisconfigured(f"{self._provider} answers by a redirect; the address of its API is wrong.")
        try:
            return Answer(status, as_object(json.loads(content), "The answer"))
        except (ValueError, RecursionError, Unreadable):
            raise ProviderDown(f"{self._provider} answered with status {status} and no JSON object.") from None

    def _open(self) -> httpx.AsyncClient:
        """Return the client; it is made in the event loop that uses it."""
        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(_ANSWER_WITHIN_S, connect=_CONNECT_WITHIN_S),
                limits=httpx.Limits(max_connections=_CONNECTIONS_MAX),
                follow_redirects=False,
            )
        return self._client


def _seconds_to_wait(retry_after: str | None) -> int:
    """Return what a `Retry-After` in seconds says; 0 for none, or a date."""
    return int(retry_after) if retry_after and retry_after.isdecimal() and len(retry_after) < 6 else 0
