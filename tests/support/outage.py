"""A database that cannot be reached for a while, although its server runs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from libs.common.database_url import database_name, plain_url, with_database


@asynccontextmanager
async def cut_off(admin_url: str) -> AsyncIterator[None]:
    """Close all connections to a database, and let no service connect until the context ends."""
    name = database_name(admin_url)
    connection = await asyncpg.connect(plain_url(with_database(admin_url, "postgres")))
    try:
        await connection.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        try:
            yield
        finally:
            await connection.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')
    finally:
        await connection.close()
