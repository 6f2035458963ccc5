"""The peers in plain SQL, run with pgbench of the same Postgres installation on the same server."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import LoadError

_PEERS = Path(__file__).resolve().parent / "peers"
_CLIENTS_TRIED = (1, 2, 4, 8, 16, 64)
_TRY_S = 2
_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Run:
    """The result of one pgbench run."""

    transactions: int
    rate_per_s: float


class Pgbench:
    """One transaction script against one database, with prepared statements."""

    def __init__(self, folder: Path, url: str, script: str, variables: Mapping[str, int]) -> None:
        self._program = folder / "pgbench"
        self._psql = folder / "psql"
        self._url = url
        self._script = _PEERS / script
        self._variables = variables
        self.transactions = 0
        """The number of transactions committed in all runs."""

    def prepare(self, tables: str) -> None:
        """Creates the tables and their rows, and runs ANALYZE as autovacuum would."""
        options = ["-qX", "-v", "ON_ERROR_STOP=1", *self._defines("-v")]
        self._call([self._psql, *options, "-f", _PEERS / tables, self._url])

    def best_clients(self) -> int:
        """Returns the number of clients at which the peer is fastest."""
        self.run(_CLIENTS_TRIED[0], _TRY_S)  # Warm-up.
        return max(_CLIENTS_TRIED, key=lambda clients: self.run(clients, _TRY_S).rate_per_s)

    def run(self, clients: int, seconds: int) -> Run:
        """Runs for `seconds`.

        Raises:
            LoadError: a transaction failed, or there was none.
        """
        threads = min(clients, 2)
        options = ["-n", "-M", "prepared", "-c", str(clients), "-j", str(threads), "-T", str(seconds)]
        output = self._call([self._program, *options, *self._defines("-D"), "-f", self._script, self._url])
        made = re.search(r"number of transactions actually processed: (\d+)", output)
        failed = re.search(r"number of failed transactions: (\d+)", output)
        rate = re.search(r"tps = ([\d.]+)", output)
        if not made or not rate or int(made[1]) == 0 or (failed and int(failed[1]) > 0):
            raise LoadError(f"pgbench measured nothing:\n{output}")
        self.transactions += int(made[1])
        return Run(int(made[1]), float(rate[1]))

    def _defines(self, option: str) -> list[str]:
        return [part for name, value in self._variables.items() for part in (option, f"{name}={value}")]

    def _call(self, command: list[str | Path]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise LoadError(f"{Path(command[0]).name} failed:\n{done.stderr}")
        return done.stdout
