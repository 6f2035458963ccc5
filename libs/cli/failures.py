"""Errors that end a command with one line for the person who ran it."""


class CommandFailed(Exception):
    """The command failed; the message says why in one line. The exit status is 1."""

    exit_code = 1


class WrongUse(CommandFailed):
    """The command was used wrongly. The exit status is 2."""

    exit_code = 2
