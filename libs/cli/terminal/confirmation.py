"""Asking before what cannot be taken back."""

import sys
from typing import Annotated

import typer

from libs.cli.failures import CommandFailed, WrongUse

YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def confirm(question: str, *, yes: bool) -> None:
    """Go on only if the person says so; where nobody can be asked, --yes must have been given."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise WrongUse("This cannot be taken back; give --yes where there is no terminal to ask at.")
    if not typer.confirm(question, err=True):
        raise CommandFailed("Nothing was done.")
