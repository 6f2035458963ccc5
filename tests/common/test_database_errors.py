"""What an error of Postgres means, also in the words of a Citus cluster."""

import asyncpg
import pytest

from libs.common.database_errors import ConstraintViolation, refusal_for, violated_constraint, violation
from libs.common.errors import Conflict, DeadlineExceeded, Refusal, Unavailable

_DUPLICATE = 'duplicate key value violates unique constraint "transactions_operation_once{}"'


def postgres_error(sqlstate: str, message: str, **fields: str) -> asyncpg.PostgresError:
    """The error that the driver makes of a server's message; `n` is the field of the constraint's name."""
    error: asyncpg.PostgresError = asyncpg.PostgresError.new({"S": "ERROR", "C": sqlstate, "M": message, **fields})
    return error


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(postgres_error("23505", _DUPLICATE.format(""), n="transactions_operation_once"), id="plain"),
        pytest.param(postgres_error("23505", _DUPLICATE.format("_102040")), id="a worker's"),
        pytest.param(
            postgres_error("23505", _DUPLICATE.format("_102040"), n="transactions_operation_once_102040"),
            id="the coordinator's own shard",
        ),
        pytest.param(postgres_error("XX000", _DUPLICATE.format("_1020400")), id="by COPY"),
    ],
)
def test_violated_constraint_is_named_however_the_server_says_it(error: asyncpg.PostgresError) -> None:
    assert violated_constraint(error) == "transactions_operation_once"
    assert refusal_for(error) is None


@pytest.mark.parametrize(
    ("sqlstate", "message", "name"),
    [
        (
            "23514",
            'new row for relation "holds_102099" violates check constraint "holds_amount_positive"',
            "holds_amount_positive",
        ),
        (
            "23503",
            'insert or update on table "a_102099" violates foreign key constraint "a_b_known_102099"',
            "a_b_known",
        ),
        ("23P01", 'conflicting key value violates exclusion constraint "once_102099"', "once"),
        (
            "23502",
            'null value in column "operation_id" of relation "transactions_102040" violates not-null constraint',
            None,
        ),
    ],
)
def test_every_kind_of_constraint_is_recognised(sqlstate: str, message: str, name: str | None) -> None:
    for state in (sqlstate, "XX000"):
        found = violation(postgres_error(state, message))
        assert isinstance(found, ConstraintViolation), state
        assert found.constraint == name


def test_error_of_anything_else_is_no_violation() -> None:
    for error in (
        postgres_error("XX000", "cache lookup failed for relation 16402"),
        postgres_error("42P01", 'relation "transactions" violates unique constraint "x"'),
        LookupError('violates unique constraint "x"'),
    ):
        assert violation(error) is None
    assert violated_constraint(LookupError()) is None


@pytest.mark.parametrize(
    ("sqlstate", "message"),
    [
        ("XX000", "failure on connection marked as essential: 10.0.0.2:5432"),
        ("08006", "connection to the remote node tollhouse_billing@10.0.0.2:5432 failed with the following error: …"),
        ("08006", "could not establish any connections to the node 10.0.0.2:5432 after 30000 ms"),
        ("XX000", "connection to the remote node tollhouse_billing@10.0.0.2:5432 failed"),
        ("58030", "failed to COPY to shard 102040 on 10.0.0.2:5432"),
        ("58030", "failed to complete COPY on 10.0.0.2:5432"),
        ("XX000", "node group 3 does not have a primary node"),
        ("XX000", "there is a shard placement in node group 3 but there are no nodes in that group"),
        ("XX000", "server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally"),
        ("XX000", "could not receive data from server: Connection reset by peer"),
        ("XX000", "SSL SYSCALL error: EOF detected"),
        ("XX000", "another command is already in progress"),
        ("57P01", "terminating connection due to administrator command"),
        ("XX000", "terminating connection due to administrator command"),
        ("57P03", "the database system is starting up"),
        ("XX000", "the database system is in recovery mode"),
        ("XX000", "sorry, too many clients already"),
    ],
)
def test_lost_worker_is_unavailable_and_its_connection_is_thrown_away(sqlstate: str, message: str) -> None:
    _means(postgres_error(sqlstate, message), Unavailable, discard=True)


@pytest.mark.parametrize(
    ("sqlstate", "message"),
    [
        ("40P01", "canceling the transaction since it was involved in a distributed deadlock"),
        ("XX000", "canceling the transaction since it was involved in a distributed deadlock"),
        ("XX000", "deadlock detected"),
        ("55P03", "canceling statement due to lock timeout"),
        ("XX000", "canceling statement due to lock timeout"),
    ],
)
def test_deadlock_across_nodes_is_a_conflict(sqlstate: str, message: str) -> None:
    _means(postgres_error(sqlstate, message), Conflict, discard=False)


def test_worker_that_took_too_long_exceeds_the_deadline() -> None:
    for sqlstate in ("57014", "XX000"):
        _means(
            postgres_error(sqlstate, "canceling statement due to statement timeout"), DeadlineExceeded, discard=False
        )


def test_fault_inside_of_postgres_stays_a_fault() -> None:
    for sqlstate, message in (
        ("XX000", "unexpected chunk number 1"),
        ("XX000", "function f said: server closed the connection unexpectedly"),
        ("58030", 'could not read block 3 in file "base/1/2"'),
        ("XX001", "invalid page in block 3"),
    ):
        assert refusal_for(postgres_error(sqlstate, message)) is None


def _means(error: asyncpg.PostgresError, refusal: type[Refusal], *, discard: bool) -> None:
    mapped = refusal_for(error)
    assert mapped is not None
    assert isinstance(mapped.refusal, refusal)
    assert mapped.discard == discard
