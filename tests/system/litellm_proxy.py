"""The real proxy of LiteLLM with our package, in a process and an environment of its own."""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from libs.cli.installation.environment import repository
from libs.common.ports import free_port
from tests.system.installation import Installation

ENVIRONMENT: Final = Path(sys.prefix) / "litellm"
INTEGRATION: Final = repository() / "integrations" / "litellm"
_READY_WITHIN_S: Final = 110
_ANSWER_WITHIN_S: Final = 60


@dataclass(frozen=True)
class Answer:
    """What a client got: of a stream that it left, what came until then."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Mapping[str, object]:
        read: Mapping[str, object] = json.loads(self.body)
        return read

    @property
    def error(self) -> Mapping[str, object]:
        """`error` of the body, which OpenAI's clients show."""
        error = self.document["error"]
        assert isinstance(error, dict), self.body
        return error


@dataclass
class Proxy:
    """One proxy; it can be killed and started again, on the same port and with the same spool."""

    installation: Installation
    upstream_url: str
    folder: Path
    config: Path = INTEGRATION / "config.yaml"
    credentials: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / "litellm.log"

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    def start(self) -> None:
        """Start the process; `ready` waits for it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(ENVIRONMENT / "bin" / "python", "-m", "litellm.proxy.proxy_cli"),
                    *("--config", self.config, "--host", "127.0.0.1", "--port", str(self.port)),
                ],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _environment(self) -> dict[str, str]:
        endpoints = self.installation.endpoints()
        own = {
            "PYTHONPATH": os.pathsep.join(
                str(place) for place in (INTEGRATION, repository() / "clients" / "python", repository() / "protos")
            ),
            "TOLLHOUSE_IDENTITY_ADDRESS": endpoints["identity"],
            "TOLLHOUSE_METERING_ADDRESS": endpoints["metering"],
            "TOLLHOUSE_SIGNING_KEY_FILE": str(self.installation.data_dir / "keys" / "gateway.json"),
            "TOLLHOUSE_LITELLM_SPOOL": str(self.spool),
            "OPENAI_API_BASE": f"{self.upstream_url}/v1",
            "ANTHROPIC_API_BASE": self.upstream_url,
            "COHERE_API_BASE": self.upstream_url,
            **{f"{name}_API_KEY": "of-the-provider" for name in ("OPENAI", "ANTHROPIC", "COHERE")},
            "LITELLM_MASTER_KEY": f"sk-{secrets.token_hex(24)}",
            # The map of prices that LiteLLM brings, instead of one from the internet.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
        }
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder)} | own | dict(self.credentials)

    async def ready(self) -> None:
        """Wait until the proxy answers."""
        assert self.process is not None
        give_up = time.monotonic() + _READY_WITHIN_S
        while True:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < give_up, self.log.read_text()
            try:
                if (await self.call("GET", "/health/liveliness")).status == 200:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.2)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process is not None:
            self.kill()

    async def chat(self, key: str, mark: str, *, model: str = "gpt-5", **fields: object) -> Answer:
        """Ask for a chat completion."""
        messages = [{"role": "user", "content": "What does the fox say?"}]
        return await self.post(
            "/v1/chat/completions", key, {"model": model, "user": mark, "messages": messages, **fields}
        )

    async def post(
        self, path: str, key: str, body: Mapping[str, object], *headers: str, leave_after: bytes = b""
    ) -> Answer:
        """Post JSON with an API key. Go away as soon as the answer has `leave_after`."""
        data = json.dumps(body).encode()
        return await self.call(
            "POST", path, f"Authorization: Bearer {key}", *headers, data=data, leave_after=leave_after
        )

    async def call(self, method: str, path: str, *headers: str, data: bytes = b"", leave_after: bytes = b"") -> Answer:
        """Make one request on a connection of its own."""
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                lines = [f"{method} {path} HTTP/1.1", "Host: proxy", "Connection: close", *headers]
                lines += ["Content-Type: application/json", f"Content-Length: {len(data)}", "", ""]
                writer.write("\r\n".join(lines).encode() + data)
                head = await reader.readuntil(b"\r\n\r\n")
                body = b""
                while chunk := await reader.read(65536):
                    body += chunk
                    if leave_after and leave_after in body:
                        break
            finally:
                writer.close()
        return _answer(head, body)


def _answer(head: bytes, body: bytes) -> Answer:
    first, *lines = head.decode().strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join(_chunks(body))
    return Answer(int(first.split(" ")[1]), headers, body)


def _chunks(body: bytes) -> Sequence[bytes]:
    """Return what is in the chunks of a body, as far as it came."""
    found: list[bytes] = []
    while b"\r\n" in body:
        size, _, body = body.partition(b"\r\n")
        length = int(size or b"0", 16)
        found.append(body[:length])
        body = body[length + 2 :]
    return found
