"""Makes the database reject single rows, so that one item of a batch fails with a chosen SQLSTATE."""

from tests.support.sharded import execute_in_shards

SQLSTATES = (
    "22021",  # character not in repertoire, as for U+0000
    "22003",  # numeric value out of range
    "23514",  # check violation
    "40001",  # serialization failure: the batch is retried first
    "40P01",  # deadlock
    "55P03",  # lock timeout
    "57014",  # statement timeout
    "53100",  # disk full
    "08006",  # connection failure: the connection is thrown away
    "57P01",  # admin shutdown: the server says that it shuts down
    "XX000",  # internal error
)

_RAISE = """
CREATE OR REPLACE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.operation_id LIKE 'poison-%' THEN
        RAISE EXCEPTION 'poisoned' USING ERRCODE = split_part(NEW.operation_id, '-', 2);
    END IF;
    RETURN NEW;
END
$$
"""


def poisoned(sqlstate: str, name: object) -> str:
    """Return an operation id whose row fails with this SQLSTATE."""
    return f"poison-{sqlstate}-{name}"


async def plant_poison(admin_url: str, table: str) -> None:
    """Make inserts of poisoned operation ids into a table such as `billing.holds` fail in every shard."""
    await execute_in_shards(admin_url, _RAISE)
    trigger = f"CREATE TRIGGER poison BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION poison()"
    await execute_in_shards(admin_url, trigger)
