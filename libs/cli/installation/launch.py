"""Becomes another program that ends with its parent: `python launch.py PARENT_PID PROGRAM ARGUMENT…`.

The kernel is asked to send SIGTERM when the parent dies, however it dies, and the wish outlives the change of program.
This is a program of its own because setting it between fork and exec is not safe in a parent that has threads.
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
        sys.exit(f"the parent {parent} died before {program[0]} was started")
    os.execv(program[0], program)  # noqa: S606 -- no shell is wanted.


if __name__ == "__main__":
    main()
