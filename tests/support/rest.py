"""A client for REST that adds nothing: every header, path and body is sent as a test gives it."""

import asyncio
import http.client
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_ANSWER_WITHIN_S = 60


@dataclass(frozen=True)
class RestAnswer:
    """What a client got."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def document(self) -> dict[str, object]:
        read: dict[str, object] = json.loads(self.body)
        return read

    @property
    def reason(self) -> str:
        """The reason of the error, which each has."""
        details = self.document["details"]
        assert isinstance(details, list), self.body
        return str(details[0]["reason"])

    @property
    def violations(self) -> dict[str, str]:
        """The fields at fault, each with what is wrong with it."""
        details = self.document["details"]
        assert isinstance(details, list), self.body
        return {one["field"]: one["description"] for detail in details for one in detail.get("fieldViolations", ())}


@dataclass(frozen=True)
class Rest:
    """Where the gateway listens, and the headers of each call."""

    port: int
    headers: tuple[tuple[str, str], ...] = ()

    async def call(
        self,
        verb: str,
        target: str,
        body: object = None,
        *headers: tuple[str, str],
    ) -> RestAnswer:
        """Call; a body that is no text, bytes or parts of a chunked one is sent as JSON."""
        if body is not None and not isinstance(body, str | bytes) and not callable(body):
            body = json.dumps(body)
        sent = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        return await asyncio.to_thread(self._call, verb, target, sent, headers)

    def _call(self, verb: str, target: str, body: object, headers: Iterable[tuple[str, str]]) -> RestAnswer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_WITHIN_S)
        try:
            connection.putrequest(verb, target, skip_accept_encoding=True)
            for name, value in (*self.headers, *headers):
                connection.putheader(name, value)
            if isinstance(body, bytes):
                connection.putheader("content-length", str(len(body)))
            elif callable(body):
                connection.putheader("transfer-encoding", "chunked")
            try:
                connection.endheaders()
                if isinstance(body, bytes):
                    connection.send(body)
                elif callable(body):
                    for part in body():
                        connection.send(b"%x\r\n%s\r\n" % (len(part), part))
                    connection.send(b"0\r\n\r\n")
            except (BrokenPipeError, ConnectionResetError):
                pass  # An answer may come, and the connection end, before a large body is sent.
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return RestAnswer(response.status, named, response.read())
        finally:
            connection.close()
