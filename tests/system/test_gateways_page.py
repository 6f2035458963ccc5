"""The tokens that docs/gateways.md shows are accepted as the page says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from libs.cli.installation.data_folder import DataFolder
from libs.cli.installation.environment import repository
from libs.cli.installation.gateways import Gateways
from libs.common.access import Caller, CallerKind
from libs.common.authentication import Authenticator, TrustBundle
from libs.common.clock import SystemClock

PAGE = (repository() / "docs" / "gateways.md").read_text(encoding="utf-8")
RUN_WITHIN_S = 60
NODE = shutil.which("node")
INTERPRETERS = {"python": sys.executable, **({"mjs": NODE} if NODE else {})}
"""What runs the programs that need no package beyond ours, by their languages; Node is optional here."""


def program(language: str) -> str:
    """Return the one program in a language that the page shows."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def caller_of_token_by(command: list[str], folder: Path) -> Caller:
    """Return who metering takes the caller to be, with the token that a program prints for a new gateway."""
    data = DataFolder(folder / "data")
    data.prepare()
    _, key_file = Gateways(data, SystemClock()).create("edge", folder / "edge.json")
    printed = subprocess.run(
        [*command, str(key_file)], check=True, capture_output=True, text=True, timeout=RUN_WITHIN_S
    )
    bundle = TrustBundle.read(data.trust_bundle_file)
    authenticator = Authenticator(bundle, audience="metering.tollhouse", clock=SystemClock())
    return authenticator.caller_of(f"Bearer {printed.stdout.strip()}")


@pytest.mark.parametrize(("language", "interpreter"), INTERPRETERS.items())
def test_token_signed_as_the_page_shows_is_accepted(tmp_path: Path, language: str, interpreter: str) -> None:
    file = tmp_path / f"sign.{language}"
    file.write_text(program(language))
    assert caller_of_token_by([interpreter, str(file)], tmp_path) == Caller(CallerKind.SERVICE, "edge")
