"""deploy/citus/README.md agrees with the code: the rule of the shards, the roles' settings, and the files it names."""

import re
import subprocess
import sys
from typing import Final

import asyncpg

from libs.common.citus import ROLE_SETTINGS
from libs.common.database_url import plain_url
from libs.common.sharding import shard_number
from tests.contract.sources import ROOT
from tests.support.database import TestPostgres

FOLDER: Final = ROOT / "deploy" / "citus"
GUIDE: Final = (FOLDER / "README.md").read_text(encoding="utf-8")
_RULE: Final = re.compile(r"^(python3 -c .*?) \\\n\s+(\S+) (\d+)\n#\s+(\d+)$", re.MULTILINE | re.DOTALL)
_SETTING: Final = re.compile(
    r"^ALTER ROLE tollhouse_billing IN DATABASE tollhouse SET \"?([\w.]+)\"? = '(\w+)';$", re.MULTILINE
)


def test_example_of_the_rule_gives_the_shard_that_the_services_use() -> None:
    ((command, organization_id, count, shown),) = _RULE.findall(GUIDE)
    script = f"{command.replace('python3', sys.executable, 1)} {organization_id} {count}"
    answer = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == shown == str(shard_number(organization_id, int(count)))


def test_roles_settings_are_those_that_are_set() -> None:
    assert dict(_SETTING.findall(GUIDE)) == ROLE_SETTINGS


async def test_query_for_the_roles_settings_is_valid(postgres: TestPostgres) -> None:
    (query,) = re.findall(r"run_command_on_all_nodes\(\$\$(.*?)\$\$\)", GUIDE, re.DOTALL)
    connection = await asyncpg.connect(plain_url(postgres.admin_url))
    try:
        assert await connection.fetchval(query) is None
    finally:
        await connection.close()


def test_files_and_sections_named_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", GUIDE) + re.findall(r"`(tests/[^`]+)`", GUIDE)
    assert [link for link in links if not ((FOLDER / link).exists() or (ROOT / link).exists())] == []
    sections = {
        re.sub(r"[^a-z0-9 ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", GUIDE, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) <= sections
