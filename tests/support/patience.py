"""Long time limits of Postgres, for tests that make calls wait for a lock in a known order.

By default a statement waits half a second for a lock. On a busy machine a test may need longer than that to bring the
next call to the lock.
"""

from typing import Any

import pytest

from libs.common import connections, database, shards
from services.identity.__main__ import open_pool

_LIMIT_MS = 15_000
# Typed as Any because `__kwdefaults__` is not a part of a callable's type.
_OPENERS: tuple[Any, ...] = (connections.open_connections, database.open_database, shards.open_shards, open_pool)


def let_transactions_rest() -> None:
    """Let a transaction be idle for long in every pool that this process opens: a busy machine may stop for seconds."""
    for opener in _OPENERS:
        if "idle_in_transaction_timeout_ms" in opener.__kwdefaults__:
            opener.__kwdefaults__["idle_in_transaction_timeout_ms"] = _LIMIT_MS


def wait_long_for_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every pool that is opened from now on wait long for locks and statements, unless it is told otherwise."""
    for opener in _OPENERS:
        for name in ("lock_timeout_ms", "statement_timeout_ms", "idle_in_transaction_timeout_ms"):
            if name in opener.__kwdefaults__:
                monkeypatch.setitem(opener.__kwdefaults__, name, _LIMIT_MS)
