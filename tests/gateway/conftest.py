"""A gateway for all tests of a process, before servers that remember what came."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from libs.cli.gateway.bootstrap import Gateway, bootstrap
from libs.cli.gateway.descriptors import descriptor_set
from libs.common.ports import free_port
from tests.gateway.recorder import Recorder, recording
from tests.support.envoy import Envoy, envoy_process
from tests.support.rest import Rest


@contextmanager
def running_gateway(folder: Path, gateway: Gateway) -> Iterator[Envoy]:
    """Run Envoy as the gateway is to be, on a port of its own; nothing may go wrong in its script."""
    for _ in range(3):
        port = free_port()
        configuration = json.dumps(bootstrap(replace(gateway, port=port)))
        with envoy_process(folder / f"envoy-{port}", port, configuration) as envoy:
            if envoy is None:
                continue
            yield envoy
            assert "script log" not in envoy.log.read_text(errors="replace")
            return
    raise AssertionError("Envoy found no free port.")


@pytest.fixture(scope="session")
async def recorder_of_all() -> AsyncIterator[Recorder]:
    async with recording() as recorder:
        yield recorder


@pytest.fixture
def recorder(recorder_of_all: Recorder) -> Iterator[Recorder]:
    recorder_of_all.take()
    yield recorder_of_all
    recorder_of_all.behaviour, recorder_of_all.answer = None, b""
    recorder_of_all.pieces = (b"", b"")


@pytest.fixture(scope="session")
def plain_gateway(recorder_of_all: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """The gateway as `tollhouse up --gateway` has it."""
    file = tmp_path_factory.mktemp("descriptors") / "descriptors.binpb"
    file.write_bytes(descriptor_set())
    return Gateway(
        targets={context: ("127.0.0.1", port) for context, port in recorder_of_all.ports.items()}, descriptors_file=file
    )


@pytest.fixture(scope="session")
def rest(plain_gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rest]:
    with running_gateway(tmp_path_factory.mktemp("gateway"), plain_gateway) as envoy:
        yield Rest(envoy.port)
