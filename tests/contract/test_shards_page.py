"""docs/shards.md gives the rule of the shards as the services follow it."""

import io
import re
from contextlib import redirect_stdout
from typing import Final

import asyncpg

from libs.common.database_url import plain_url
from libs.common.ids import new_id
from libs.common.sharding import shard_number
from tests.contract.sources import ROOT
from tests.support.database import TestPostgres

PAGE: Final = (ROOT / "docs" / "shards.md").read_text(encoding="utf-8")
_EXAMPLE: Final = re.compile(r"organization `(\S+)` of (\d+) shards is in shard (\d+):")
_COUNTS: Final = (1, 2, 3, 32, 256)


def _example() -> tuple[str, int, int]:
    ((organization_id, count, number),) = _EXAMPLE.findall(PAGE)
    return organization_id, int(count), int(number)


def _code(language: str) -> str:
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(code)


def test_example_is_in_the_shard_that_the_services_use() -> None:
    organization_id, count, number = _example()
    assert shard_number(organization_id, count) == number
    for language in ("python", "sql", "go", "js"):
        assert organization_id in _code(language)
        assert str(count) in _code(language)


def test_python_code_gives_the_same_number_for_any_organization() -> None:
    output = io.StringIO()
    names: dict[str, object] = {}
    with redirect_stdout(output):
        exec(_code("python"), names)  # noqa: S102 -- the code of our own page.
    assert int(output.getvalue()) == _example()[2]
    computed = names["shard_number"]
    assert callable(computed)
    for _ in range(200):
        one = new_id().upper()
        assert [computed(one, count) for count in _COUNTS] == [shard_number(one, count) for count in _COUNTS]


async def test_sql_gives_the_same_number_for_any_organization(postgres: TestPostgres) -> None:
    organization_id, count, number = _example()
    statement = _code("sql")
    connection = await asyncpg.connect(plain_url(postgres.admin_url))
    try:
        assert await connection.fetchval(statement) == number
        general = statement.replace(f"'{organization_id}'", "$1::text").replace(f"% {count}", "% $2::bigint")
        for _ in range(200):
            one = new_id().upper()
            found = [await connection.fetchval(general, one, count) for count in _COUNTS]
            assert found == [shard_number(one, count) for count in _COUNTS]
    finally:
        await connection.close()


def test_files_named_exist() -> None:
    links = [ROOT / "docs" / link for link in re.findall(r"\]\(([^)#:]+)\)", PAGE)]
    places = [ROOT / place for place in re.findall(r"`((?:libs|services|tests|deploy)/[^`]+)`", PAGE)]
    assert [path for path in links + places if not path.exists()] == []
