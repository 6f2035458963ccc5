"""Postgres URLs in their several spellings.

`postgres://`, `postgresql://` and `postgresql+asyncpg://` all name the same thing. The plain form is what the driver
reads, with libpq's own parameters (`host=/a/socket/folder`, `sslmode`, `target_session_attrs`).
"""

from urllib.parse import quote, unquote, urlsplit

_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg", "postgres+asyncpg")


class InvalidDatabaseUrl(ValueError):
    """The text is no Postgres URL; the message never repeats it, since it may hold a password."""


def plain_url(url: str) -> str:
    """The URL in the form the driver reads: `postgresql://…`."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # reading it is what checks it
    except ValueError:
        raise InvalidDatabaseUrl("is not a readable URL") from None
    if parts.scheme not in _SCHEMES:
        raise InvalidDatabaseUrl("must begin with postgresql:// or postgres://")
    if not unquote(parts.path.lstrip("/")):
        raise InvalidDatabaseUrl("must name a database, as in postgresql://user@host/database")
    # Written out: urlunsplit would drop the empty host of a socket URL and with it the two slashes.
    query = f"?{parts.query}" if parts.query else ""
    return f"postgresql://{parts.netloc}{parts.path}{query}"


def database_name(url: str) -> str:
    """The name of the database the URL leads to."""
    return unquote(urlsplit(plain_url(url)).path.lstrip("/"))


def with_database(url: str, name: str) -> str:
    """The same server and login, another database."""
    parts = urlsplit(plain_url(url))
    query = f"?{parts.query}" if parts.query else ""
    return f"postgresql://{parts.netloc}/{quote(name, safe='')}{query}"


def with_role(url: str, role: str, password: str | None = None) -> str:
    """The same server and database, another login."""
    parts = urlsplit(plain_url(url))
    host = parts.netloc.rpartition("@")[2]
    login = quote(role, safe="") + (":" + quote(password, safe="") if password is not None else "")
    query = f"?{parts.query}" if parts.query else ""
    return f"postgresql://{login}@{host}{parts.path}{query}"
