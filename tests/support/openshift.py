"""A fake of an OpenShift cluster's API for tests. It serves `users/~`, all that a sign-in needs, over real HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.oidc import response

USER_PATH = "/apis/user.openshift.io/v1/users/~"


def user(name: str, uid: str, full_name: str = "") -> dict[str, object]:
    """Return a user in the form of the cluster's API."""
    return {
        "kind": "User",
        "apiVersion": "user.openshift.io/v1",
        "metadata": {"name": name, "uid": uid, "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "fullName": full_name,
        "identities": [f"ldap:{name}"],
        "groups": ["system:authenticated", "system:authenticated:oauth"],
    }


class OpenShiftApi:
    """Finds users by their access tokens, counts requests, and fails on demand."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self.port = 0
        self.users: dict[str, object] = {}
        """What `users/~` answers, by access token."""
        self.asked: list[str] = []
        """The paths that were asked for."""
        self.answer: bytes | None = None
        self.hold: asyncio.Event | None = None
        """While this is there and not set, requests wait."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.asked.append(head.split(" ", 2)[1])
            if self.hold is not None:
                await self.hold.wait()
            writer.write(self.answer or self._answer(head))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # The client has closed the connection.
        finally:
            writer.close()

    def _answer(self, head: str) -> bytes:
        lines = head.split("\r\n")
        token = next((line.partition(" Bearer ")[2] for line in lines if line.lower().startswith("authorization:")), "")
        if not head.startswith(f"GET {USER_PATH} "):
            return response({"kind": "Status", "code": 404}, status="404 Not Found")
        if token not in self.users:
            return response({"kind": "Status", "code": 401, "reason": "Unauthorized"}, status="401 Unauthorized")
        return response(self.users[token])


@asynccontextmanager
async def open_cluster() -> AsyncIterator[OpenShiftApi]:
    """Run the API for as long as the context lasts."""
    api = OpenShiftApi()
    await api.start()
    try:
        yield api
    finally:
        await api.stop()
