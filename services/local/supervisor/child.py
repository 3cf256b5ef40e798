"""Child processes that end with their parent."""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.common.runtime.private_files import make_private_folder, open_private

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Program:
    """A program to run."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables added to the parent's environment."""
    descriptors: tuple[int, ...] = ()
    """File descriptors that it inherits."""


class Child:
    """A program that runs as a child process and writes to a log file."""

    def __init__(self, program: Program, *, log: Path, preloaded: asyncio.subprocess.Process | None = None) -> None:
        """Create a child.

        Args:
            program: The program.
            log: Its log file.
            preloaded: A process that has loaded it and becomes the first start (`services/local/worker/preload.py`).
        """
        self.program = program
        self.log = log
        self._preloaded = preloaded
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Process id of the most recent start."""
        assert self._process is not None, "not started"
        return self._process.pid

    async def start(self) -> None:
        """Start the program. Its output is appended to its log, whose folder is created if it was removed.

        Raises:
            OSError: The log cannot be written, or the system has no room for another process.
        """
        make_private_folder(self.log.parent)
        with os.fdopen(open_private(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as output:
            if self._preloaded is not None:
                self._process, self._preloaded = self._preloaded, None
                await _hand_over(self._process, self.program, self.log)
                return
            self._process = await asyncio.create_subprocess_exec(
                *self.program.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.program.environment},
                # A new session: Ctrl-C in the terminal reaches only the parent, which stops the children in order.
                start_new_session=True,
                pass_fds=self.program.descriptors,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
            )

    async def wait(self) -> int:
        """Wait until the process ends, and return its exit code; negative if a signal ended it."""
        assert self._process is not None, "not started"
        return await self._process.wait()

    def failed(self) -> bool:
        """Return whether the process exited with a non-zero code, not because of a signal."""
        return self._process is not None and (self._process.returncode or 0) > 0

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. Does nothing if the process has ended."""
        if self._process is not None and self.is_running():
            self._process.send_signal(number)

    def is_running(self) -> bool:
        """Return whether the process was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    def last_output(self) -> str:
        """Return the last line of the log, for error messages."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError as exc:
            return f"its log cannot be read ({exc.strerror})"
        return lines[-1] if lines else "its log is empty"


async def _hand_over(process: asyncio.subprocess.Process, program: Program, log: Path) -> None:
    assert process.stdin is not None, "without a pipe"
    given = {"environment": dict(program.environment), "log": str(log)}
    with contextlib.suppress(ConnectionError):  # It has ended, as `wait` reports.
        process.stdin.write(json.dumps(given).encode() + b"\n")
        await process.stdin.drain()
    process.stdin.close()


def die_with_parent() -> None:
    """Make the kernel send SIGTERM to this process when its parent ends, for any reason. Runs in the child (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
