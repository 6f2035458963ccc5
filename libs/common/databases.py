"""Whole databases: making, cloning and dropping them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from libs.common.database_url import plain_url, with_database

if TYPE_CHECKING:
    from libs.common.database import RawConnection

_BUSY_TRIES = 20


async def create_database(admin_url: str, name: str, template: str | None = None) -> str:
    """Makes a database, empty or as a clone, and gives its URL under the same login.

    A template can be copied only while nobody is connected to it, so a busy one is tried again for about two seconds.
    """
    # The log strategy copies block by block without a checkpoint: for small databases it is much the faster one.
    clone = f" TEMPLATE {_quoted(template)} STRATEGY wal_log" if template else " TEMPLATE template0 ENCODING 'UTF8'"
    async with _maintenance(admin_url) as connection:
        for attempt in range(1, _BUSY_TRIES + 1):
            try:
                await connection.execute(f"CREATE DATABASE {_quoted(name)}{clone}")
                break
            except asyncpg.ObjectInUseError:
                if attempt == _BUSY_TRIES:
                    raise
                await asyncio.sleep(0.1)
    return with_database(admin_url, name)


async def ensure_database(admin_url: str, name: str) -> str:
    """The URL of a database that is made if it is not there yet."""
    async with _maintenance(admin_url) as connection:
        exists = await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", name)
    if not exists:
        try:
            return await create_database(admin_url, name)
        except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
            pass  # Another process created it first.
    return with_database(admin_url, name)


async def drop_database(admin_url: str, name: str) -> None:
    """Drops a database if it exists, with whoever is still connected to it."""
    async with _maintenance(admin_url) as connection:
        await connection.execute(f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")


async def execute(url: str, statements: Sequence[str]) -> None:
    """Runs statements, each on its own, on a connection of their own."""
    async with _connect(url) as connection:
        for statement in statements:
            await connection.execute(statement)


@asynccontextmanager
async def _maintenance(admin_url: str) -> AsyncIterator["RawConnection"]:
    """A connection to the database `postgres`, from where the others can be made and dropped."""
    async with _connect(with_database(admin_url, "postgres")) as connection:
        yield connection


@asynccontextmanager
async def _connect(url: str) -> AsyncIterator["RawConnection"]:
    connection = await asyncpg.connect(plain_url(url), timeout=5, command_timeout=60)
    try:
        yield connection
    finally:
        await connection.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
