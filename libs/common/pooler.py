"""What changes where a transaction-pooling proxy, such as PgBouncer, stands before Postgres.

Such a proxy gives each transaction whichever server connection is free. It refuses settings at the start of a
connection, and what a session keeps (settings, prepared statements, LISTEN) is lost or met by others. So each
transaction sets for itself what it needs, and nothing happens outside of one.
"""

import json
from collections.abc import Callable, Mapping
from typing import Final

from sqlalchemy import TextClause, text
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection, PGDialect_asyncpg

SET_LOCAL: Final[TextClause] = text("SELECT set_config(key, value, true) FROM json_each_text(CAST(:settings AS json))")
"""Makes settings hold until the end of the transaction; they are given as one JSON object."""


def begin_statement(settings: Mapping[str, str]) -> str:
    """Return what begins a transaction with these settings, in one message to the server."""
    if not settings:
        return "BEGIN"
    values = _literal(json.dumps(dict(settings)))
    return f"BEGIN; SELECT set_config(key, value, true) FROM json_each_text({values})"  # noqa: S608 -- quoted, and ours.


class PooledDialect(PGDialect_asyncpg):
    """SQLAlchemy's dialect, for connections through a pooler.

    It looks up types on each new connection. That takes two messages, which must reach the same server connection, so
    it is done in a transaction.
    """

    supports_statement_cache = True

    def on_connect(self) -> Callable[[AsyncAdapt_asyncpg_connection], None]:
        set_up = super().on_connect()  # type: ignore[no-untyped-call]

        def connect(adapted: AsyncAdapt_asyncpg_connection) -> None:
            adapted.run_async(lambda connection: connection.execute("BEGIN"))
            set_up(adapted)
            adapted.run_async(lambda connection: connection.execute("COMMIT"))

        return connect


DIALECT: Final = "tollhouse_pooled"
registry.register(f"postgresql.{DIALECT}", __name__, PooledDialect.__name__)


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
