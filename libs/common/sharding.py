"""Which shard an organization is in, and how the schemas of shards are called."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Final

from libs.common.ids import NIL

SERVICES: Final = Path(__file__).resolve().parents[2] / "services"
"""The folder in which each context has its own."""
SHARDS_MAX: Final = 256
PLATFORM: Final = NIL
"""Stands for the organization where something belongs to none."""


@lru_cache(maxsize=100_000)
def shard_number(organization_id: str, count: int) -> int:
    """Return the number of the shard, from 0, in which an organization is.

    That is the first four bytes of the SHA-256 of the id's text (36 lower-case characters), read as a big-endian
    number, modulo the number of shards.
    """
    digest = hashlib.sha256(organization_id.lower().encode()).digest()
    return int.from_bytes(digest[:4], "big") % count


def shard_schema(context: str, number: int) -> str:
    """Return the schema of a shard: `billing_00` for the first of billing."""
    return f"{context}_{number:02d}"


def shard_migrations_folder(context: str, services: Path = SERVICES) -> Path:
    """Return where a context keeps the migrations of its shards."""
    return services / context / "migrations" / "shards"


def newest_shard_version(context: str) -> str:
    """Return the newest migration of a context's shards, by its number."""
    return max(path.name[:4] for path in shard_migrations_folder(context).glob("[0-9]*.py"))
