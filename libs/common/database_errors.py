"""What a driver's error means to a caller.

This is the only table of SQLSTATEs. A constraint violation (unique, check) means something only to the code that sent
the statement: `ConstraintViolation` and `violated_constraint` tell which constraint it was.

A cluster of Citus (https://github.com/citusdata/citus, version 13.2; files below src/backend/distributed) says some of
it in other words. The coordinator passes a worker's error on without the name of the constraint, and the message has
the name of the worker's own table or index, which ends in the number of the Citus shard (ReportResultError in
connection/remote_commands.c). Where an INSERT goes to the worker as COPY, the SQLSTATE is lost too: everything comes as
XX000 with the worker's message (ReportCopyError in commands/multi_copy.c). So such errors are told by their English
messages.
"""

import re
from dataclasses import dataclass
from typing import Final

import asyncpg
from sqlalchemy import exc

from libs.common.errors import Conflict, DeadlineExceeded, Refusal, Unavailable


@dataclass(frozen=True, slots=True)
class MappedError:
    """The refusal that an error becomes, and whether its connection must be thrown away."""

    refusal: Refusal
    discard: bool


class LostNode(Unavailable):
    """The machine of a cluster that has the data cannot be reached, whatever the statement was."""


_CONFLICTS = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock timeout: the transaction is lost, the connection can be used again."""

_LOST = frozenset({"57P01", "57P02", "57P03", "57P05", "25006", "25P03", "53300"})
"""Shut down, starting up, idle too long, read-only after a fail-over, or full: this connection is useless now."""

_TOLD_BY_MESSAGE: Final = frozenset({"XX000", "58030"})
"""Internal error and input/output error: all that Citus says where it has no SQLSTATE, and otherwise a fault."""

_VIOLATION: Final = re.compile(
    r'violates (?:unique|check|foreign key|exclusion) constraint "(?P<name>[^"]+)"'
    r"|^null value in column .* violates not-null constraint$"
)
_CITUS_SHARD: Final = re.compile(r"_\d{6,}$")
"""What Citus appends to the names of a shard's tables, constraints and indexes. Its numbers begin at 102008."""

_LOST_WORKER: Final = re.compile(
    # XX000 of MarkRemoteTransactionFailed in transaction/remote_transaction.c
    r"^failure on connection marked as essential: "
    # 08006 of ReportConnectionError in connection/remote_commands.c and of executor/adaptive_executor.c, passed on
    r"|^connection to the remote node |^could not establish any connections to the node "
    # 58030 of commands/multi_copy.c
    r"|^failed to (?:complete COPY on|COPY to shard) "
    # XX000 of metadata/metadata_cache.c: the node was taken out of the cluster
    r"|^node group \d+ does not have a primary node"
    r"|^there is a shard placement in node group \d+ but there are no nodes in that group"
    # The words of libpq, as XX000 of ReportResultError, where a worker's answer breaks off
    r"|^server closed the connection unexpectedly|^could not (?:receive data from|send data to) server"
    r"|^no connection to the server|^connection not open|^SSL (?:SYSCALL error|connection has been closed)"
    r"|^lost synchronization with server|^another command is already in progress"
    # The words of a worker that ends a session or takes none, as XX000 of ReportCopyError
    r"|^terminating connection |^the database system is |^sorry, too many clients|^remaining connection slots "
)
_LOST_TO_OTHERS: Final = re.compile(
    # multi_log_hook in shared_library_init.c gives the first its SQLSTATE, 40P01; here for one that was passed on
    r"^canceling the transaction since it was involved in a distributed deadlock|^deadlock detected"
    r"|^canceling statement due to lock timeout|^could not serialize access"
)
_TIMED_OUT: Final = re.compile(r"^canceling statement due to (?:statement timeout|user request)")

_STALE_PLANS = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)
"""A migration changed a table after a statement was prepared; a new connection works."""


def refusal_for(error: BaseException) -> MappedError | None:
    """The refusal for an error, or None where the error is specific to one statement."""
    if isinstance(error, Refusal):
        return None
    if isinstance(error, exc.TimeoutError):
        return MappedError(Unavailable(dependency="database"), discard=False)
    cause = driver_error(error)
    if isinstance(cause, asyncpg.PostgresError):
        return _of_sqlstate(cause)
    if isinstance(cause, TimeoutError):
        return MappedError(DeadlineExceeded(), discard=True)
    if isinstance(cause, OSError) or (isinstance(cause, asyncpg.InterfaceError) and _is_closed(cause)):
        return MappedError(Unavailable(dependency="database"), discard=True)
    if isinstance(cause, asyncpg.InternalClientError):
        # The server ended the connection while the driver was changing state: the connection cannot be used again.
        return MappedError(Unavailable(dependency="database"), discard=True)
    return None


class ConstraintViolation(Exception):
    """A statement on a driver's connection ran into a constraint; nothing of its transaction was kept."""

    def __init__(self, constraint: str | None) -> None:
        super().__init__(f"violates {constraint or 'a constraint without a name'}")
        self.constraint = constraint
        """The name of the constraint or unique index; None where it has none, as a column that must not be null."""


def violation(error: BaseException) -> ConstraintViolation | None:
    """The constraint violation that a driver's error stands for, or None."""
    cause = driver_error(error)
    if not isinstance(cause, asyncpg.IntegrityConstraintViolationError | asyncpg.InternalServerError):
        return None
    in_message = _VIOLATION.search(_message(cause))
    if in_message is None and isinstance(cause, asyncpg.InternalServerError):
        return None
    name = getattr(cause, "constraint_name", None) or (in_message and in_message["name"])
    return ConstraintViolation(_CITUS_SHARD.sub("", name) if isinstance(name, str) else None)


def violated_constraint(error: BaseException) -> str | None:
    """The name of the constraint or unique index that a statement ran into, or None."""
    found = error if isinstance(error, ConstraintViolation) else violation(error)
    return None if found is None else found.constraint


def driver_error(error: BaseException) -> BaseException:
    """The driver's own error without SQLAlchemy's wrapping; after a failed connect there is one layer less."""
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    if isinstance(error, exc.EmulatedDBAPIException):
        return error.__cause__ or error
    return error


def _of_sqlstate(error: asyncpg.PostgresError) -> MappedError | None:
    state = error.sqlstate or ""
    if state in _CONFLICTS:
        return MappedError(Conflict(), discard=False)
    if isinstance(error, _STALE_PLANS):
        return MappedError(Conflict(), discard=True)
    if state == "57014":
        return MappedError(DeadlineExceeded(), discard=False)
    if state == "53100":
        return MappedError(Unavailable(dependency="database"), discard=False)
    if state in _TOLD_BY_MESSAGE:
        return _of_message(_message(error))
    if state == "08006" and _LOST_WORKER.search(_message(error)):
        return MappedError(LostNode(dependency="database"), discard=True)
    if state.startswith("08") or state in _LOST:
        return MappedError(Unavailable(dependency="database"), discard=True)
    return None


def _of_message(message: str) -> MappedError | None:
    """What an error of a cluster means that has no SQLSTATE of its own."""
    if _LOST_WORKER.search(message):
        return MappedError(LostNode(dependency="database"), discard=True)
    if _LOST_TO_OTHERS.search(message):
        return MappedError(Conflict(), discard=False)
    if _TIMED_OUT.search(message):
        return MappedError(DeadlineExceeded(), discard=False)
    return None


def _message(error: asyncpg.PostgresError) -> str:
    return str(error.args[0]) if error.args else ""


def _is_closed(error: asyncpg.InterfaceError) -> bool:
    """Tells a closed connection by the error's text, its only mark. Other interface errors are bugs of ours."""
    return "closed" in str(error)
