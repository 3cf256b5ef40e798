"""Python programs as processes that are forked from one which has already imported them.

They behave as with `python -m`: separate processes with their own environment, killed by signals and reaped with an
exit code. Only the second of importing, which is most of a start, is spent once and not at each start; a run of the
suite starts hundreds. What `make run` itself starts is started as users start it (tests/e2e/make_run).
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.local.supervisor.child import die_with_parent

_PROGRAMS = (
    "services.auth.server",
    "services.inference.server",
    "services.quota.server",
    "services.gateway.server",
    "services.local.supervisor.run",
    "services.local.worker.server",
    "services.cli.main",
    "tools.groq_standin.__main__",
)
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.forked", *_PROGRAMS])


class Forked:
    """A running program, with the part of `subprocess.Popen` that tests use."""

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str], log: Path, output: Path | None = None
    ) -> None:
        """Start `command`; its output is appended to `log`, or its standard output to `output`."""
        self._command = tuple(command)
        arguments = (self._command[2:], dict(environment), str(output or log), str(log))
        self._process = _forks.Process(target=_become, args=arguments)
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once it has ended.

        Raises:
            subprocess.TimeoutExpired: It is still running.
        """
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self._command, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


Started = Forked | subprocess.Popen[bytes]


def started_process(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path, is_forked: bool = True
) -> Started:
    """Start a command; its output is appended to `log`. Python modules are forked unless `is_forked` is false."""
    if is_forked and tuple(command[:2]) == (sys.executable, "-m"):
        return Forked(command, environment=environment, log=log)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def run_module(
    name: str, *arguments: str, environment: Mapping[str, str], timeout: float = 30
) -> subprocess.CompletedProcess[str]:
    """Run `python -m name arguments` to its end, as `subprocess.run` does.

    Raises:
        subprocess.TimeoutExpired: It did not end in time, and was killed.
    """
    command = (sys.executable, "-m", name, *arguments)
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        process = Forked(command, environment=environment, log=errors, output=output)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(command, code, output.read_text(), errors.read_text())


def _become(arguments: Sequence[str], environment: Mapping[str, str], output: str, errors: str) -> None:
    """Run `python -m arguments` in this process."""
    os.setsid()
    die_with_parent()
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
