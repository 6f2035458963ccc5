"""A real Envoy, with the configuration of docs/envoy.md, in front of a server that tells what it was sent."""

import asyncio
import http.client
import json
import platform
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import yaml

from libs.common.ports import free_port

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "envoy.md"
PROGRAM: Final = Path(sys.prefix) / "envoy" / "envoy" / "_bin" / "envoy"
_READY_WITHIN_S: Final = 60
_ANSWER_WITHIN_S: Final = 30

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def document(self) -> dict[str, object]:
        read: dict[str, object] = json.loads(self.body)
        return read

    @property
    def seen(self) -> list[tuple[str, str]]:
        """The headers that the server behind Envoy saw."""
        pairs: list[list[str]] = json.loads(self.body)
        return [(name.lower(), value) for name, value in pairs]


@dataclass
class Envoy:
    """A running Envoy."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    async def get(self, path: str = "/", *headers: tuple[str, str]) -> Answer:
        return await asyncio.to_thread(self._get, path, headers)

    def _get(self, path: str, headers: Headers) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_WITHIN_S)
        try:
            connection.putrequest("GET", path)
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, response.read().decode())
        finally:
            connection.close()


@dataclass
class Changes:
    """What differs from the configuration of the page."""

    failure_mode_allow: bool = False
    failure_mode_deny: bool = True
    limits_are_asked: bool = True
    """Whether there is the filter that asks ShouldRateLimit."""
    use_remote_address: bool = True
    """Whether Envoy adds who called it to `x-forwarded-for`: for loopback that is an address of the machine."""
    extensions: Mapping[str, str] = field(default_factory=dict)
    """What the routes of /v1/chat demand beside what the page says."""


def documents(language: str) -> list[str]:
    """The blocks of the page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@contextmanager
def running_envoy(folder: Path, metering_port: int, token: str, changes: Changes | None = None) -> Iterator[Envoy]:
    """Run Envoy and the server behind it for as long as the context lasts."""
    assert PROGRAM.exists(), (
        f"Envoy is not installed for {platform.machine()}; `make {PROGRAM.parents[2].name}/.ready` does, as `make test`"
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Told)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        for attempt in range(3):
            port = free_port()
            configuration = _configuration(port, metering_port, server.server_port, token, changes or Changes())
            with envoy_process(folder / f"envoy-{port}-{attempt}", port, configuration) as envoy:
                if envoy is not None:
                    yield envoy
                    return
        raise AssertionError("Envoy found no free port.")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def envoy_process(folder: Path, port: int, configuration: str) -> Iterator[Envoy | None]:
    """Start Envoy; give None where its port was taken meanwhile."""
    folder.mkdir()
    path, log = folder / "envoy.json", folder / "envoy.log"
    path.write_text(configuration, encoding="utf-8")
    with log.open("wb") as output:
        process = subprocess.Popen(
            # One process of its own: nothing is shared with others, whoever runs them.
            [PROGRAM, "-c", path, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        envoy = Envoy(port, process, log)
        yield envoy if _is_ready(envoy) else None
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _is_ready(envoy: Envoy) -> bool:
    give_up_s = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < give_up_s:
        if envoy.process.poll() is not None:
            text = envoy.log.read_text(errors="replace")
            assert "Address already in use" in text, text
            return False
        try:
            with socket.create_connection(("127.0.0.1", envoy.port), timeout=1):
                return True
        except OSError:
            time.sleep(0.05)
    raise AssertionError(envoy.log.read_text(errors="replace"))


def _configuration(port: int, metering_port: int, server_port: int, token: str, changes: Changes) -> str:
    """Return the configuration of the page, with ports of this machine."""
    (text,) = [block for block in documents("yaml") if block.startswith("static_resources:")]
    document = yaml.safe_load(text.replace("Bearer TOKEN", f"Bearer {token}"))
    resources = document["static_resources"]
    (listener,) = resources["listeners"]
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    for cluster, to_port in zip(resources["clusters"], (metering_port, server_port), strict=True):
        (group,) = cluster["load_assignment"]["endpoints"]
        (endpoint,) = group["lb_endpoints"]
        endpoint["endpoint"]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": to_port}
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    checks, limits, router = manager["http_filters"]
    checks["typed_config"]["failure_mode_allow"] = changes.failure_mode_allow
    limits["typed_config"]["failure_mode_deny"] = changes.failure_mode_deny
    manager["use_remote_address"] = changes.use_remote_address
    manager["http_filters"] = [checks, limits, router] if changes.limits_are_asked else [checks, router]
    route = manager["route_config"]["virtual_hosts"][0]["routes"][0]
    demanded = route["typed_per_filter_config"]["envoy.filters.http.ext_authz"]["check_settings"]
    demanded["context_extensions"] |= changes.extensions
    return json.dumps(document)


class _Told(BaseHTTPRequestHandler):
    """Answers with the headers that it was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps(self.headers.items()).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing."""
