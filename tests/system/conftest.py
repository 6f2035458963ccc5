"""One installation with a REST gateway, shared by all tests of a process that leave it unchanged."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.system.installation import Installation, running


@pytest.fixture(scope="session")
async def installation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    async with running(Installation(tmp_path_factory.mktemp("installation"), ["--gateway"])) as installation:
        yield installation


@pytest.fixture
def small_trace(tmp_path: Path) -> Path:
    """Twelve calls within a few seconds."""
    lines = [f"2023-11-16 18:15:{46 + number // 2}.6805900,{100 * number + 7},{number + 1}" for number in range(12)]
    path = tmp_path / "small.csv"
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]))
    return path
