"""Create or update the clone's virtual environment: `python3 tools/environment.py run`, or `dev`.

Uses only the standard library, since nothing is installed yet. An environment left incomplete by an interruption or an
error is rebuilt from scratch; `.venv/incomplete` marks it.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_VENV = _ROOT / ".venv"
_PYTHON = _VENV / "bin" / "python"
_INCOMPLETE = _VENV / "incomplete"
_LOCK = _ROOT / ".venv.lock"
_PIP = (str(_PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input")
_TERMINAL_SECONDS = 0.2
_LOG_SECONDS = 2.0
_OUTPUT_LINES = 15


def main() -> None:
    """Create the environment of a lock file, or print one sentence with the reason why not."""
    lock = f"requirements/{sys.argv[1]}.lock"
    try:
        with _alone() as descriptor:
            _prepare(descriptor)
            packages = (_ROOT / lock).read_text().count("==")
            _run(
                "Installing",
                (*_PIP, "install", "--progress-bar", "off", "--require-hashes", "-r", lock),
                descriptor,
                packages,
            )
            editable = ("install", "--quiet", "--no-deps", "--no-build-isolation", "-e", ".")
            _run("Installing the product's own package", (*_PIP, *editable), descriptor)
            _INCOMPLETE.unlink()
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The same command starts again.")


@contextmanager
def _alone() -> Iterator[int]:
    """Hold the clone's lock; children inherit it, so that the next run waits for a child that outlives this process."""
    descriptor = os.open(_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Waiting for another process that installs into .venv ...", flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _prepare(descriptor: int) -> None:
    """Create a virtual environment with a working pip, marked as incomplete."""
    if not _INCOMPLETE.exists() and _pip_works():
        _INCOMPLETE.touch()
        return
    if find_spec("ensurepip") is None or find_spec("venv") is None:
        sys.exit(
            f"{sys.executable} cannot create a virtual environment: its venv or ensurepip module is missing. Install "
            "it (Debian, Ubuntu: sudo apt install python3-venv), or name another: make run PYTHON=/path/to/python3"
        )
    shutil.rmtree(_VENV, ignore_errors=True)
    _VENV.mkdir()
    _INCOMPLETE.touch()
    _run(f"Creating .venv with {sys.executable}", (sys.executable, "-m", "venv", str(_VENV)), descriptor)


def _pip_works() -> bool:
    return _PYTHON.exists() and subprocess.run([*_PIP, "--version"], capture_output=True, check=False).returncode == 0


def _run(what: str, command: tuple[str, ...], descriptor: int, packages: int = 0) -> None:
    """Run a command and show its progress; `packages` is the number of packages to install, and 0 shows no count."""
    process = subprocess.Popen(
        command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=[descriptor]
    )
    output: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=output.extend, args=(process.stdout,), daemon=True)
    reader.start()
    try:
        _show_progress(what, process, output, packages)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    reader.join()
    if process.returncode:
        print(*output[-_OUTPUT_LINES:], sep="")
        sys.exit(f"{what} failed; above is why. The same command tries again.")


def _show_progress(what: str, process: "subprocess.Popen[str]", output: list[str], packages: int) -> None:
    is_terminal = sys.stdout.isatty()
    started = time.monotonic()
    while True:
        line = f"{what} ...{_done(output, packages) if packages else ''} {time.monotonic() - started:.0f} s"
        print(f"\r\033[K{line}" if is_terminal else line, end="" if is_terminal else "\n", flush=True)
        try:
            process.wait(_TERMINAL_SECONDS if is_terminal else _LOG_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        if is_terminal:
            print()
        return


def _done(output: list[str], packages: int) -> str:
    """Return pip's progress: it collects all packages first, and then installs them."""
    if any(line.startswith("Installing collected packages") for line in output):
        installed = sum(1 for _ in _VENV.glob("lib/python*/site-packages/*.dist-info"))
        return f" {min(installed, packages)} of {packages} packages,"
    collected = sum(1 for line in output if re.match(r"(?:Collecting|Processing) |Requirement already satisfied", line))
    return f" collected {min(collected, packages)} of {packages} packages,"


if __name__ == "__main__":
    main()
