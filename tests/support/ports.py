"""Free ports on this machine."""

import socket


def free_port() -> int:
    """Return a port that no process is listening on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
