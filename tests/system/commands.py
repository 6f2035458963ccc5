"""Commands given to an installation, and what they must print."""

import json

from tests.system.installation import Installation


def done(installation: Installation, *arguments: str) -> str:
    """What a command that must succeed prints."""
    finished = installation.command(*arguments)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def made(installation: Installation, *arguments: str) -> dict[str, str]:
    """The one thing a command prints as JSON."""
    document: dict[str, str] = json.loads(done(installation, *arguments, "--json"))
    return document


def found(installation: Installation, *arguments: str) -> list[dict[str, str]]:
    """The things a command lists as JSON."""
    documents: list[dict[str, str]] = json.loads(done(installation, *arguments, "--json"))
    return documents


def refused(installation: Installation, status: int, *arguments: str) -> str:
    """The one line that a command says when it cannot do its work."""
    finished = installation.command(*arguments)
    assert finished.returncode == status, finished.stdout + finished.stderr
    assert finished.stdout == ""
    assert finished.stderr.startswith("tollhouse: ")
    assert finished.stderr.count("\n") == 1, finished.stderr
    return finished.stderr
