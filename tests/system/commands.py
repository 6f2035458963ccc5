"""Runs commands against an installation and returns what they print."""

import json

from tests.system.installation import Installation


def done(installation: Installation, *arguments: str) -> str:
    """Return the output of a command that must succeed."""
    finished = installation.command(*arguments)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def made(installation: Installation, *arguments: str) -> dict[str, str]:
    """Return the JSON object that a command prints."""
    document: dict[str, str] = json.loads(done(installation, *arguments, "--json"))
    return document


def found(installation: Installation, *arguments: str) -> list[dict[str, str]]:
    """Return the list that a command prints as JSON."""
    documents: list[dict[str, str]] = json.loads(done(installation, *arguments, "--json"))
    return documents


def refused(installation: Installation, status: int, *arguments: str) -> str:
    """Return the single line that a failing command prints."""
    finished = installation.command(*arguments)
    assert finished.returncode == status, finished.stdout + finished.stderr
    assert finished.stdout == ""
    assert finished.stderr.startswith("tollhouse: ")
    assert finished.stderr.count("\n") == 1, finished.stderr
    return finished.stderr
