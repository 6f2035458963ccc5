"""The session of README.md, as somebody types it who copies the ids from the answers."""

import re
import sys
from pathlib import Path
from typing import Final

from libs.cli.installation.environment import repository
from tests.system.curl import Curl, needs_grpcurl
from tests.system.installation import Installation
from tests.system.test_examples import BLOCK, examples_in, problems
from tests.system.test_languages import run

_SESSION = re.compile(r"^## One session\n(.*?)^## ", re.MULTILINE | re.DOTALL)
_COPIED = re.compile(r'(#   [^\n]*"(?P<field>\w+)": "(?P<shown>[^"]+)"[^\n]*\n)(?P<name>\w+)=(?P=shown)\n')
_PORTS: Final = {"identity": "7001", "billing": "7002", "metering": "7003"}
_LAST: Final = 'grep -o "\\"{field}\\": \\"[^\\"]*" "$(ls -t bin/calls/*.output | head -1)" | head -1 | cut -d\'"\' -f4'


def _typed(shown: str, installation: Installation) -> str:
    """Return the commands with this installation's ports, and with the ids that its services answered."""
    typed = re.sub(r"^make up .*\n", "", shown)
    for context, port in _PORTS.items():
        typed = re.sub(rf"\b{port}\b", installation.endpoints()[context].rpartition(":")[2], typed)
    return _COPIED.sub(lambda copied: f"{copied['name']}=$({_LAST.format(field=copied['field'])})\n", typed)


@needs_grpcurl
async def test_session_of_the_readme_works_as_typed(installation: Installation, tmp_path: Path) -> None:
    section = _SESSION.search((repository() / "README.md").read_text(encoding="utf-8"))
    assert section is not None
    shown = BLOCK.findall(section[1])
    copied = {copy["shown"] for copy in _COPIED.finditer("".join(shown))}
    assert len(copied) == 3
    (tmp_path / "bin").mkdir()
    curl = Curl(tmp_path / "bin")
    (tmp_path / ".venv").symlink_to(sys.prefix)

    status, _, complaints = await run(
        *("sh", "-e", "-c", _typed("".join(shown), installation)),
        folder=tmp_path,
        environment={
            "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
            "TOLLHOUSE_DATA_DIR": str(installation.data_dir),
            "TOLLHOUSE_READY_FILE": str(installation.ready_file),
        },
    )

    assert status == 0, complaints
    # The function `call` and descriptions name no RPC.
    answers = [answer for answer in curl.answers if "/" in answer.method]
    expected = [example for example in examples_in(shown) if example.rpc]
    for example in expected:
        example.facts = [fact for fact in example.facts if fact[1] not in copied]
    assert [answer.method for answer in answers] == [example.rpc for example in expected], complaints
    assert problems(expected, answers) == []
