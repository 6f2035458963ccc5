"""Runs `tollhouse` commands as processes that are forked from one which has imported the program.

What a test starts and does not wait for, such as
`tollhouse up`, and the examples of the documentation have an interpreter of their own all the same.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from libs.cli.__main__ import main
from libs.cli.installation.environment import repository
from tests.support.forked import PROCESSES


def run_command(
    arguments: Sequence[str], environment: Mapping[str, str], timeout_s: float, working_folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `tollhouse ARGUMENT…` to its end, in the folder of the program unless told otherwise.

    Raises:
        TimeoutError: it did not end in time, and was killed.
    """
    with tempfile.TemporaryDirectory(prefix="tollhouse-command-") as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        process = PROCESSES.Process(
            target=_run,
            args=(list(arguments), dict(environment), working_folder or repository(), output, errors),
        )
        process.start()
        try:
            process.join(timeout_s)
            if process.exitcode is None:
                raise TimeoutError(f"`tollhouse {' '.join(arguments)}` did not end: {errors.read_text()}")
            return subprocess.CompletedProcess(arguments, process.exitcode, output.read_text(), errors.read_text())
        finally:
            process.kill()
            process.join()
            process.close()


def _run(arguments: list[str], environment: dict[str, str], folder: Path, output: Path, errors: Path) -> None:
    """What the process does: be the program, with standard streams and an environment of its own."""
    for descriptor, path, flags in ((0, Path(os.devnull), os.O_RDONLY), (1, output, _NEW), (2, errors, _NEW)):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["tollhouse", *arguments]
    main()


_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND
