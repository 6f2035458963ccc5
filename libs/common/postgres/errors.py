"""What can go wrong when launching Postgres."""


class PostgresError(Exception):
    """Postgres cannot be started or stopped; the message names the one thing to do about it."""
