"""Redis' clock, which steps: Valkey's own by libfaketime, or else the clock as seen by quota's scripts."""

import os
from pathlib import Path

from redis import Redis

from tests import faketime
from tests.e2e.stack import Stack
from tests.faults.stepping_scripts import ENTRY

_PROGRAM = "tests.faults.stepping_scripts"


class Clock:
    """The clock of the Valkey behind an address."""

    def __init__(self, folder: Path, address: Path) -> None:
        self._folder = folder
        self._address = address
        self._is_fake = faketime.library() is not None and os.environ.get("FAULT_CLOCK") != "scripts"
        self._seconds = 0.0
        if self._is_fake:
            faketime.set_clock(folder, 0)

    def prepare(self, stack: Stack) -> None:
        """Make the programs of a stack that is not started yet follow this clock."""
        if self._is_fake:
            stack.own["valkey"] = dict(faketime.environment(self._folder))
            return
        for name in stack.names:
            if name.startswith(("quota", "stack")):
                stack.run_by(_PROGRAM, name)

    def set(self, seconds: float) -> None:
        """Set it ahead of the machine's, or behind it."""
        if seconds == self._seconds:
            return
        self._seconds = seconds
        if self._is_fake:
            faketime.set_clock(self._folder, seconds)
            return
        with Redis(unix_socket_path=str(self._address)) as client:
            client.set(ENTRY, int(seconds))
