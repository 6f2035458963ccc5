"""What a driver's error means to a caller.

This is the only table of SQLSTATEs. A constraint violation (unique, check) means something only to the code that sent
the statement: it is raised unchanged, and `violated_constraint` tells which constraint it was.
"""

from dataclasses import dataclass

import asyncpg
from sqlalchemy import exc

from libs.common.errors import Conflict, DeadlineExceeded, Refusal, Unavailable


@dataclass(frozen=True, slots=True)
class MappedError:
    """The refusal that an error becomes, and whether its connection must be thrown away."""

    refusal: Refusal
    discard: bool


_CONFLICTS = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock timeout: the transaction is lost, the connection can be used again."""

_LOST = frozenset({"57P01", "57P02", "57P03", "57P05", "25006", "25P03", "53300"})
"""Shut down, starting up, idle too long, read-only after a fail-over, or full: this connection is useless now."""

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


def violated_constraint(error: BaseException) -> str | None:
    """The name of the constraint or unique index that a statement ran into, or None."""
    cause = driver_error(error)
    if isinstance(cause, asyncpg.IntegrityConstraintViolationError):
        name = getattr(cause, "constraint_name", None)
        return name if isinstance(name, str) else None
    return None


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
    if state.startswith("08") or state in _LOST:
        return MappedError(Unavailable(dependency="database"), discard=True)
    return None


def _is_closed(error: asyncpg.InterfaceError) -> bool:
    """Tells a closed connection by the error's text, its only mark. Other interface errors are bugs of ours."""
    return "closed" in str(error)
