"""The REST gateway of an installation: its files, and Envoy as a process that is kept running."""

import asyncio
import json
import os
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from libs.cli.failures import CommandFailed
from libs.cli.gateway.bootstrap import Gateway, bootstrap
from libs.cli.gateway.descriptors import descriptor_set
from libs.cli.gateway.page import api_pages
from libs.cli.installation.processes import ChildProcess, tail
from libs.common.channel import ClientTls
from libs.common.ports import free_port, is_free

_NAME: Final = "gateway"
_READY_WITHIN_S: Final = 60.0
_ANSWERS_WITHIN_S: Final = 2.0
_HOPELESS_RESTARTS: Final = 4
_LOOPBACK: Final = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """What was asked for of the gateway."""

    program: Path
    """Envoy."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 for a free one."""
    allowed_origins: Sequence[str] = ()
    trusted_proxies: int = 0


class GatewayProcess:
    """Starts Envoy before the services of an installation, and keeps it running."""

    def __init__(self, options: GatewayOptions, folder: Path, log_file: Path, on_change: Callable[[], None]) -> None:
        self._options = options
        self._folder = folder
        self._log_file = log_file
        self._on_change = on_change
        self._port = options.port or free_port(options.host)
        self._child: ChildProcess | None = None

    @property
    def url(self) -> str:
        """The address, as clients write it."""
        host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        return f"http://{host}:{self._port}"

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    def check_port(self) -> None:
        """Raise CommandFailed if another program listens on the port."""
        if not is_free(self._options.host, self._port):
            raise CommandFailed(f"The port {self._port} on {self._options.host} for the gateway is in use.")

    async def start(self, endpoints: Mapping[str, str], tls: ClientTls | None) -> None:
        """Start Envoy before services at these addresses; return when it answers."""
        configuration = await asyncio.to_thread(self._write, endpoints, tls)
        program = [
            *(str(self._options.program), "--config-path", str(configuration)),
            # Nothing is shared with another Envoy of the machine.
            *("--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"),
        ]
        self._child = ChildProcess(_NAME, program, os.environ, self._log_file, self._on_change)
        await self._child.start()
        give_up_s = time.monotonic() + _READY_WITHIN_S
        while not await asyncio.to_thread(self._answers):
            if self._child.restarts >= _HOPELESS_RESTARTS or time.monotonic() >= give_up_s:
                log = self._log_file
                raise CommandFailed(f"The gateway does not start. Its log {log} ends with: {tail(log)}")
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop()

    def _write(self, endpoints: Mapping[str, str], tls: ClientTls | None) -> Path:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        descriptors, configuration = self._folder / "descriptors.binpb", self._folder / "envoy.json"
        descriptors.write_bytes(descriptor_set())
        gateway = Gateway(
            targets={context: _address(endpoint) for context, endpoint in endpoints.items()},
            descriptors_file=descriptors,
            host=self._options.host,
            port=self._port,
            tls=tls,
            allowed_origins=self._options.allowed_origins,
            trusted_proxies=self._options.trusted_proxies,
            pages=api_pages(),
        )
        configuration.write_text(json.dumps(bootstrap(gateway), indent=1), encoding="utf-8")
        return configuration

    def _answers(self) -> bool:
        # The address is ours, and always of this scheme.
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=_ANSWERS_WITHIN_S) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False


def with_trusted_gateway(context: str, environment: Mapping[str, str], url: str) -> dict[str, str]:
    """Return a service's environment in which the gateway on this machine may say who calls, and links lead to its URL.

    What a variable says already stays.
    """
    links = {"TOLLHOUSE_BILLING_INVOICE_LINK_BASE_URL": url} if context == "billing" else {}
    return {f"TOLLHOUSE_{context.upper()}_TRUSTED_PROXIES": json.dumps(_LOOPBACK), **links, **environment}


def _address(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    return host, int(port)
