"""A connection that asks Postgres about its built-in types once in a process, and not once a connection.

The driver asks about each type that it meets first on a connection, such as arrays. An answer takes Postgres 5 to 25
ms, and a connection needs two or three. With eight shards a service opens 32 connections and more.

The driver has no public way to be told of types, so this overrides a private method of it. `pyproject.toml` holds the
driver to the version that has the method, and a test fails where an update takes it away.
"""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import asyncpg

if TYPE_CHECKING:
    _Base = asyncpg.Connection[asyncpg.Record]
else:
    _Base = asyncpg.Connection

_BUILT_IN_BELOW: Final = 10_000
"""Types with lower ids are the same in every database: Postgres assigns these ids by hand."""
_ANSWERS_MAX: Final = 1_000
_answers: dict[frozenset[int], object] = {}
_NOT_ASKED: Final = SimpleNamespace(name="not asked")
"""Stands for the statement that asked: with a name, since it has replaced no unnamed one of the connection."""


class Connection(_Base):
    """The driver's connection, which looks up what another connection of the process was told about built-in types."""

    async def _introspect_types(self, typeoids: Iterable[int], timeout: float | None) -> tuple[object, object]:
        ids = frozenset(typeoids)
        if ids in _answers:
            return _answers[ids], _NOT_ASKED
        types, statement = await super()._introspect_types(ids, timeout)  # type: ignore[misc]
        if max(ids) < _BUILT_IN_BELOW and len(_answers) < _ANSWERS_MAX:
            _answers[ids] = types
        return types, statement
