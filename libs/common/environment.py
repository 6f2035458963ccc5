"""The variables that settings are read from: the process's environment, and a `.env` file beside it.

A secret may be given as it is, or in a file whose path stands in the variable `<NAME>_FILE`, as secret managers hand
them out. A database may be given as one URL, or in the parts `DB_HOST`, `DB_PORT`, `DB_NAME`, `DB_USER`, `DB_PASSWORD`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from dotenv import dotenv_values

ENV_FILE: Final = Path(".env")
_FILE_SUFFIX: Final = "_FILE"
_SECRET_MAX_BYTES: Final = 65_536
_PORT_DEFAULT: Final = "5432"
_PORT_MAX: Final = 65_535


class VariablesError(Exception):
    """Variables that cannot be used, one line for each, by their names and never with their values."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


def read_environment() -> dict[str, str]:
    """Return the environment's variables, and those of `.env` that it does not set.

    Raises:
        VariablesError: the file cannot be read.
    """
    try:
        # The file is taken as it is: a `$` in a password names no other variable.
        in_file = dotenv_values(ENV_FILE, interpolate=False) if ENV_FILE.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise VariablesError(f"{ENV_FILE}: the file cannot be read ({_reason(error)})") from None
    return {name: value for name, value in in_file.items() if value is not None} | dict(os.environ)


def secret(environment: Mapping[str, str], name: str) -> str | None:
    """Return a secret from its variable or from the file that is named instead; None where neither is set.

    Raises:
        VariablesError: both are set, or the file cannot be read.
    """
    value, path = environment.get(name), environment.get(name + _FILE_SUFFIX)
    if not path:
        return value or None
    if value:
        raise VariablesError(f"{name} and {name}{_FILE_SUFFIX}: both are set; set one")
    try:
        with Path(path).open("rb") as file:
            content = file.read(_SECRET_MAX_BYTES + 1)
        if len(content) > _SECRET_MAX_BYTES:
            raise VariablesError(f"{name}{_FILE_SUFFIX}: the file is larger than {_SECRET_MAX_BYTES} bytes")
        text = content.decode()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise VariablesError(f"{name}{_FILE_SUFFIX}: the file cannot be read ({_reason(error)})") from None
    return text.removesuffix("\n").removesuffix("\r") or None


def whole_number(environment: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    """Return a number from `least` to `most`; None where the variable is not set.

    Raises:
        VariablesError: it is set to something else.
    """
    value = environment.get(name)
    if not value:
        return None
    if value.isascii() and value.isdigit() and least <= int(value[:10]) <= most:
        return int(value)
    raise VariablesError(f"{name}: must be a number from {least} to {most}")


def _reason(error: Exception) -> str | None:
    return error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"


def database_url(environment: Mapping[str, str], names: Sequence[str], *, user: str | None = None) -> str | None:
    """Return the URL of the database: the first that is set of `names`, else what DB_HOST and the others make up.

    `user` is who logs in where the parts name nobody. None where nothing is set.

    Raises:
        VariablesError: what is set cannot be used.
    """
    for name in names:
        url = secret(environment, name)
        if url is not None:
            return url
    return _url_of_parts(environment, user)


def _url_of_parts(environment: Mapping[str, str], user: str | None) -> str | None:
    host = environment.get("DB_HOST")
    if not host:
        return None
    problems = []
    name, port = environment.get("DB_NAME"), environment.get("DB_PORT") or _PORT_DEFAULT
    login = environment.get("DB_USER") or user
    if not name:
        problems.append("DB_NAME: is not set, though DB_HOST is")
    if not login:
        problems.append("DB_USER: is not set, though DB_HOST is")
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= _PORT_MAX):
        problems.append(f"DB_PORT: must be a number from 1 to {_PORT_MAX}")
    try:
        password = secret(environment, "DB_PASSWORD")
    except VariablesError as error:
        problems.extend(error.problems)
        password = None
    if problems or not name or not login:
        raise VariablesError(*problems)
    credentials = quote(login, safe="") + (f":{quote(password, safe='')}" if password else "")
    if host.startswith("/"):
        return f"postgresql://{credentials}@/{quote(name, safe='')}?host={quote(host, safe='/')}&port={port}"
    address = f"[{host}]" if ":" in host else quote(host, safe="")
    return f"postgresql://{credentials}@{address}:{port}/{quote(name, safe='')}"
