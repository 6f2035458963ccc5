"""Free ports of this machine, for servers that must know their port before they listen."""

import random
import socket
from typing import Final

_PORTS: Final = range(20_000, 30_000)
"""Below the range from which systems take the ports of outgoing connections, so that none of these takes the port
between the look and the server's start."""
_TRIES: Final = 100


def is_free(host: str, port: int) -> bool:
    """Return whether the port is free now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that is free now.

    Raises:
        NoFreePort: none was found in a hundred tries.
    """
    for port in random.sample(_PORTS, _TRIES):
        if is_free(host, port):
            return port
    raise NoFreePort(f"No free port was found on {host} between {_PORTS.start} and {_PORTS.stop}.")


class NoFreePort(OSError):
    """No free port was found."""
