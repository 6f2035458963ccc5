"""Runs a program that ends when its parent ends: `python launch.py PARENT_PID PROGRAM ARGUMENT…`.

It asks the kernel to send it SIGTERM when the parent ends in any way, then replaces itself with the program; the
request stays in force after exec. It is a separate program because running Python code between fork and exec is not
safe in a parent that has threads.
"""

import ctypes
import os
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(f"the parent {parent} ended before {program[0]} was started")
    os.execv(program[0], program)  # noqa: S606 -- without a shell.


if __name__ == "__main__":
    main()
