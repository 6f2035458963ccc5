"""The page about the API, as a real browser shows it: all operations, without an error, from the gateway alone."""

import asyncio
import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from libs.cli.gateway.bootstrap import Gateway
from libs.cli.gateway.descriptors import descriptor_set
from libs.cli.gateway.page import api_pages
from scripts import api_page, openapi
from tests.gateway.conftest import running_gateway
from tests.support.rest import Rest

BROWSER: Final = Path(__file__).resolve().parents[1] / "browser"
MODULES: Final = BROWSER / "node_modules"
_LOOKED_WITHIN_S: Final = 400
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rest]:
    """A gateway with the pages. No service is behind it: they come from Envoy alone."""
    folder = tmp_path_factory.mktemp("pages")
    descriptors = folder / "descriptors.binpb"
    descriptors.write_bytes(descriptor_set())
    targets = dict.fromkeys(("identity", "billing", "metering"), ("127.0.0.1", 1))
    with running_gateway(folder, replace(Gateway(targets, descriptors), pages=api_pages())) as envoy:
        yield Rest(envoy.port)


async def test_gateway_serves_the_committed_document(rest: Rest) -> None:
    answer = await rest.call("GET", "/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.body == openapi.DOCUMENT.read_bytes()


async def test_script_of_the_page_is_the_one_of_its_package(rest: Rest) -> None:
    answer = await rest.call("GET", "/docs/scalar.js")
    assert answer.headers["content-encoding"] == "gzip"
    assert api_page.is_the_package_s(gzip.decompress(answer.body))


async def test_page_may_ask_no_other_host(rest: Rest) -> None:
    answer = await rest.call("GET", "/docs")
    assert "connect-src 'self'" in answer.headers["content-security-policy"]
    assert b"//" not in answer.body


@pytest.mark.needs(str(MODULES / ".ready"))
async def test_browser_shows_every_operation_and_asks_the_gateway_alone(rest: Rest, tmp_path: Path) -> None:
    address = f"127.0.0.1:{rest.port}"
    seen = await _look(f"http://{address}/docs", tmp_path)
    document = json.loads(openapi.DOCUMENT.read_text(encoding="utf-8"))
    expected = [f"{verb.upper()} {path}" for path, verbs in document["paths"].items() for verb in verbs]
    assert sorted(seen["shown"]) == sorted(expected)
    assert seen["missing"] == []
    assert seen["empty"] == []
    assert seen["complaints"] == []
    hosts = {urlsplit(url).netloc for url in seen["requests"] if not url.startswith(("data:", "blob:"))}
    assert hosts == {address}
    for name in ("top.png", "authorize.png"):
        # An empty page of this size takes less than 10 kB.
        assert (tmp_path / name).stat().st_size > 30_000


async def _look(url: str, folder: Path) -> dict[str, Any]:
    node = shutil.which("node")
    assert node, "Node is needed to drive the browser"
    finished = await asyncio.to_thread(
        subprocess.run,
        [node, str(BROWSER / "look.mjs"), url, str(folder)],
        # The browser unpacks itself into the folder of temporary files; the Makefile has done that there once.
        env=os.environ | {"TMPDIR": str(MODULES / ".chromium")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_LOOKED_WITHIN_S,
    )
    assert finished.returncode == 0, finished.stderr
    read: dict[str, Any] = json.loads(finished.stdout)
    return read
