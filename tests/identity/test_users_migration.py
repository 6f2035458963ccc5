"""The migration gives every existing user an organization of their own, as newly created users have."""

import shutil
from pathlib import Path

import asyncpg

from libs.common.database_url import plain_url
from libs.common.databases import create_database, drop_database
from libs.common.migrate import migrate
from libs.common.sharding import SERVICES
from tests.support.database import TestPostgres, new_database_name

BEFORE = ("0001_initial.py", "0002_audit.py")
PEOPLE = (("Ada Lovelace", "countess", "Ada Lovelace"), ("", "grace", "grace"), ("", None, "alan"))


async def test_users_from_before_own_an_organization(postgres: TestPostgres, tmp_path: Path) -> None:
    folder = tmp_path / "identity" / "migrations"
    folder.mkdir(parents=True)
    for name in BEFORE:
        shutil.copy(SERVICES / "identity" / "migrations" / name, folder)
    database = new_database_name()
    url = await create_database(postgres.admin_url, database)
    try:
        await migrate("identity", url, services=tmp_path)
        await _insert_people(url)
        await migrate("identity", url)
        found = await _organizations(url)
    finally:
        await drop_database(postgres.admin_url, database)

    assert [row["name"] for row in found] == [name for _, _, name in PEOPLE]
    assert all(row["personal"] and row["role"] == "owner" and row["platform_role"] == "user" for row in found)
    # Like all other ids they are UUIDv7 and contain their creation time.
    ids = [row["id"] for row in found]
    assert len(set(ids)) == len(PEOPLE)
    for id_ in ids:
        assert (id_[14], id_[19] in "89ab") == ("7", True)
        made_s = int(id_.replace("-", "")[:12], 16) / 1000
        assert abs(made_s - float(found[0]["now_s"])) < 60


async def _insert_people(url: str) -> None:
    connection = await asyncpg.connect(plain_url(url))
    for number, (full_name, username, _) in enumerate(PEOPLE):
        await connection.execute(
            "INSERT INTO identity.users (user_id, email, email_folded, username, username_folded, full_name,"
            " picture_url, create_time, update_time)"
            " VALUES ($1, $2, $2, $3, $3, $4, '', now(), now())",
            f"0198f0aa-0000-7000-8000-00000000000{number}",
            f"{('ada', 'grace', 'alan')[number]}@example.com",
            username,
            full_name,
        )
    await connection.close()


async def _organizations(url: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(plain_url(url))
    found: list[asyncpg.Record] = await connection.fetch(
        "SELECT o.organization_id::text AS id, o.name, o.personal, m.role, u.platform_role,"
        " extract(epoch FROM now()) AS now_s"
        " FROM identity.users u JOIN identity.organizations o ON o.organization_id = u.personal_organization_id"
        " JOIN identity.members m ON m.organization_id = o.organization_id AND m.user_id = u.user_id"
        " ORDER BY u.user_id"
    )
    await connection.close()
    return found
