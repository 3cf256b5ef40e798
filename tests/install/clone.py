"""A clone of the repository, in which `make` installs from scratch."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
_END_SECONDS = 20
_INSTALL_SECONDS = 240


class Clone:
    """The repository's files, those of the working tree, without anything that make created."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.venv = folder / ".venv"
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
            if (ROOT / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)

    def make(self, *, python: str = sys.executable) -> "Make":
        """Start the installation that `make run` starts with."""
        return Make(["make", ".venv/run.stamp", f"PYTHON={python}"], self.folder)

    def works(self) -> bool:
        """Whether the product can be started from the environment."""
        starts = [
            str(self.venv / "bin" / "python"),
            "-c",
            "import services.local.supervisor.run, services.local.worker.server",
        ]
        stackctl = [str(self.venv / "bin" / "stackctl"), "--help"]
        done = [subprocess.run(one, cwd=self.folder, capture_output=True, check=False) for one in (starts, stackctl)]
        return all(one.returncode == 0 for one in done)


class Make:
    """One run of make, in a process group of its own as in a terminal.

    Attributes:
        lines: Its output, each line with the seconds since its start.
    """

    def __init__(self, command: list[str], folder: Path) -> None:
        self.lines: list[tuple[float, str]] = []
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """All of its output."""
        return "".join(line for _, line in self.lines)

    def until(self, is_so: Callable[[], bool]) -> None:
        """Return at the moment when a condition holds."""
        ends = time.monotonic() + _INSTALL_SECONDS
        while not is_so():
            assert self._process.poll() is None, f"it ended before that: {self.text}"
            assert time.monotonic() < ends, self.text
            time.sleep(0.01)

    def send_ctrl_c(self) -> None:
        """Interrupt it and all that it started, as a terminal does."""
        os.killpg(self._process.pid, signal.SIGINT)

    def wait(self, seconds: float = _INSTALL_SECONDS) -> int:
        """Return its exit code once it has ended and all of its child processes have closed its output."""
        code = self._process.wait(seconds)
        self._reader.join(_END_SECONDS)
        assert not self._reader.is_alive(), "a child process is still running"
        return code

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self.lines.append((time.monotonic() - self._started, line))
