"""What ends a command early, with a line for the person who gave it."""


class CommandFailed(Exception):
    """The command could not do its work; the message says why in one line."""

    exit_code = 1


class WrongUse(CommandFailed):
    """The command was given something it cannot work with."""

    exit_code = 2
