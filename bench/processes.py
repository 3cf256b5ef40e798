"""Processes of the measured programs: start, readiness and stop."""

import http.client
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from services.local.supervisor.child import die_with_parent

_STOP_SECONDS = 15
_POLL_SECONDS = 0.05


class DidNotStart(Exception):
    """A program ended or did not answer in time; the message ends with the last line of its log."""


class Process:
    """A running program."""

    def __init__(
        self, command: Sequence[str], *, log: Path, environment: Mapping[str, str], folder: Path | None = None
    ) -> None:
        """Start `command` in `folder` with exactly this environment, and append its output to `log`."""
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=dict(environment),
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    @property
    def pid(self) -> int:
        """Process id of the program."""
        return self._process.pid

    def until_answers(self, url: str, *, seconds: float) -> None:
        """Wait until a GET of `url` is answered with 200.

        Raises:
            DidNotStart: There was no such response within `seconds`, or the program ended.
        """
        deadline = time.monotonic() + seconds
        while not _answers(url):
            if self._process.poll() is not None:
                raise DidNotStart(f"the program exited with {self._process.returncode}: {self._last_log_line()}")
            if time.monotonic() > deadline:
                raise DidNotStart(f"{url} did not answer within {seconds:.0f} s: {self._last_log_line()}")
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Terminate the program, and kill it if it has not ended after 15 seconds."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_log_line(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"


def plain_environment(**more: str) -> dict[str, str]:
    """Return a minimal environment with `more` variables, without any that configure a measured program."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | more


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=1)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
