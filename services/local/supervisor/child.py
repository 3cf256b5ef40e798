"""A program as a child process that never outlives its parent."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.common.runtime.private_files import open_private

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Program:
    """What to run."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to our own environment."""


class Child:
    """One running program; its output goes to a log file."""

    def __init__(self, program: Program, *, log: Path) -> None:
        """Prepare to run `program`."""
        self.program = program
        self.log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Process id of the last start."""
        assert self._process is not None, "not started"
        return self._process.pid

    async def start(self) -> None:
        """Start the program; its output goes to the end of its log."""
        with os.fdopen(open_private(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.program.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.program.environment},
                # A session of its own: Ctrl-C in the terminal reaches the parent only, which stops children in order.
                start_new_session=True,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
            )

    async def wait(self) -> int:
        """Return the exit code once it ends; negative for a signal."""
        assert self._process is not None, "not started"
        return await self._process.wait()

    def failed(self) -> bool:
        """Whether it ended by itself with an exit code that means failure; not by a signal."""
        return self._process is not None and (self._process.returncode or 0) > 0

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it has ended."""
        if self._process is not None and self.is_running():
            self._process.send_signal(number)

    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    def last_output(self) -> str:
        """Return the last line of its log, for a sentence about its end."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def die_with_parent() -> None:
    """Run in the child before its program: ask the kernel for SIGTERM when the parent ends, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
