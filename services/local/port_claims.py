"""Claims of ports between the check that they are free and the start of the programs that listen on them.

Workers share their ports, so the system does not refuse those of another stack that starts at the same time: each stack
would answer a part of the other's requests.
"""

import errno
import os
import socket
import sys
from types import TracebackType
from typing import Self


class PortClaims:
    """Ports claimed by this process, until the end of the block. The system releases them if the process ends.

    A claim is a Unix socket without a file, which only Linux has. Others do not spread connections over a shared port.
    """

    def __init__(self) -> None:
        self._claims: dict[int, socket.socket] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def claim(self, port: int) -> bool:
        """Claim a port, and return whether it is claimed by no other process of the same user."""
        if sys.platform != "linux" or port in self._claims or port == 0:
            return True
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0stack-port-{os.getuid()}-{port}")
        except OSError as exc:
            claim.close()
            return exc.errno != errno.EADDRINUSE
        self._claims[port] = claim
        return True

    def release(self) -> None:
        """Give up all claims. The ports are in use by now."""
        for claim in self._claims.values():
            claim.close()
        self._claims.clear()
