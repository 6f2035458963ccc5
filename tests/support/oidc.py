"""An OpenID Connect provider for tests: the real protocol over real HTTP, with keys that can be rotated.

It serves a discovery document and a JWK set, signs ID tokens, and fails on demand.
"""

import asyncio
import json
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from joserfc import jws
from joserfc.jwk import ECKey, KeyParameters, OKPKey, RSAKey

from libs.common.clock import Clock, SystemClock

Key = RSAKey | ECKey | OKPKey
_KEYS: dict[str, Callable[[KeyParameters], Key]] = {
    "RS256": lambda parameters: RSAKey.generate_key(2048, parameters),
    "ES256": lambda parameters: ECKey.generate_key("P-256", parameters),
    "EdDSA": lambda parameters: OKPKey.generate_key("Ed25519", parameters),
}
CLIENT_ID = "tollhouse-tests"


class OidcProvider:
    """One provider. Counts the requests for its keys, so that tests can tell a cached key from a fetched one."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.keys: dict[str, Key] = {}
        self.fetches: dict[str, int] = {}
        self.answer: Callable[[str], bytes] | None = None
        """Answers in place of the provider, for one that misbehaves: takes the path, returns the whole response."""
        self.hold: asyncio.Event | None = None
        """While this is there and not set, requests wait."""
        self.asked = asyncio.Event()
        for algorithm in _KEYS:
            self.add_key(algorithm, f"{algorithm}-1")

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def fetched(self) -> int:
        """How often the JWK set was fetched."""
        return self.fetches.get("/keys", 0)

    def add_key(self, algorithm: str, key_id: str) -> Key:
        key = _KEYS[algorithm]({"kid": key_id, "use": "sig", "alg": algorithm})
        self.keys[key_id] = key
        return key

    def rotate(self, algorithm: str = "RS256") -> str:
        """Replace the algorithm's keys with a new one; return its id."""
        kept = {key_id: key for key_id, key in self.keys.items() if not key_id.startswith(algorithm)}
        key_id = f"{algorithm}-{sum(self.fetches.values()) + 100}"
        self.keys = kept
        self.add_key(algorithm, key_id)
        return key_id

    def token(
        self,
        subject: str = "1001",
        claims: Mapping[str, object] | None = None,
        *,
        algorithm: str = "RS256",
        key: Key | None = None,
        header: Mapping[str, object] | None = None,
    ) -> str:
        """Return a signed ID token. A claim or a part of the header that is None is left out."""
        key_id = next(key_id for key_id in self.keys if key_id.startswith(algorithm))
        now_s = int(self.clock.now().timestamp())
        payload: dict[str, object] = {
            "iss": self.issuer,
            "sub": subject,
            "aud": CLIENT_ID,
            "iat": now_s,
            "exp": now_s + 3600,
            "email": f"{subject}@people.test",
            "email_verified": True,
            **(claims or {}),
        }
        heading: dict[str, object] = {"alg": algorithm, "kid": key_id, "typ": "JWT", **(header or {})}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `EdDSA` has a newer name; providers use the old one.
            return jws.serialize_compact(
                {name: value for name, value in heading.items() if value is not None},
                json.dumps({name: value for name, value in payload.items() if value is not None}),
                key or self.keys[key_id],
                algorithms=[str(heading["alg"])],
            )

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop the provider; `start(self.port)` starts it again at the same address."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
            self.fetches[path] = self.fetches.get(path, 0) + 1
            self.asked.set()
            if self.hold is not None:
                await self.hold.wait()
            writer.write(self.answer(path) if self.answer else self.answer_of(path))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # The client has closed the connection.
        finally:
            writer.close()

    def answer_of(self, path: str) -> bytes:
        if path == "/.well-known/openid-configuration":
            return response({"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"})
        if path == "/keys":
            return response({"keys": [key.as_dict(private=False) for key in self.keys.values()]})
        return response({}, status="404 Not Found")


def response(document: object, *, status: str = "200 OK", headers: str = "") -> bytes:
    """Return a whole HTTP response that carries the document as JSON."""
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n{headers}\r\n".encode() + body


@asynccontextmanager
async def open_provider(clock: Clock | None = None) -> AsyncIterator[OidcProvider]:
    """Run a provider for as long as the context lasts."""
    provider = OidcProvider(clock)
    await provider.start()
    try:
        yield provider
    finally:
        await provider.stop()
