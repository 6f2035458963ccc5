"""Confirmation before something that cannot be undone."""

import sys
from typing import Annotated

import typer

from libs.cli.failures import CommandFailed, WrongUse

YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def confirm(question: str, *, yes: bool) -> None:
    """Return if the person confirms or gave --yes; otherwise raise WrongUse or CommandFailed."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise WrongUse("This cannot be undone, and there is no terminal to ask at. Give --yes to confirm.")
    if not typer.confirm(question, err=True):
        raise CommandFailed("Nothing was done.")
