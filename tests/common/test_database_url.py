"""Every spelling of a Postgres URL is accepted."""

import pytest

from libs.common.database_url import (
    InvalidDatabaseUrl,
    database_name,
    plain_url,
    with_database,
    with_role,
)

_SOCKET = "postgresql://postgres@/main?host=/run/a%20folder"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_every_scheme_becomes_the_plain_one(scheme: str) -> None:
    assert plain_url(f"{scheme}://u:p@h:5433/d?sslmode=require") == "postgresql://u:p@h:5433/d?sslmode=require"


def test_socket_url_keeps_its_shape_under_every_change() -> None:
    assert plain_url(_SOCKET) == _SOCKET
    assert with_database(_SOCKET, "other") == "postgresql://postgres@/other?host=/run/a%20folder"
    assert with_role(_SOCKET, "someone", "a/b") == "postgresql://someone:a%2Fb@/main?host=/run/a%20folder"
    assert database_name(_SOCKET) == "main"


@pytest.mark.parametrize("url", ["", "mysql://h/d", "postgresql://h", "postgresql://h:port/d", "hidden"])
def test_malformed_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidDatabaseUrl) as raised:
        plain_url(url)
    assert "hidden" not in str(raised.value)
