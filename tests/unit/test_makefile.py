"""The Makefile before anything is installed."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Yield a folder with the Makefile and the files it reads, in which nothing is installed."""
    shutil.copy(_ROOT / "Makefile", tmp_path)
    shutil.copy(_ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "run.lock").touch()
    return tmp_path


def _environment(**more: str) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if not name.startswith("MAKE")}, **more}


@pytest.mark.parametrize(
    ("argument", "environment", "port"),
    [
        ("PORT=9000", {}, "9000"),
        ("GATEWAY_PORT=9000", {}, "9000"),
        ("", {"GATEWAY_PORT": "9000"}, "9000"),
        ("", {"PORT": "9000"}, ""),
    ],
)
def test_the_command_line_port_of_make_is_the_apis(
    clone: Path, argument: str, environment: dict[str, str], port: str
) -> None:
    """PORT in the environment belongs to some other program."""
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "run.stamp").touch()
    python = clone / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "port: $GATEWAY_PORT"\n')
    python.chmod(0o700)
    command = ["make", "run", *argument.split()]
    output = subprocess.check_output(command, cwd=clone, env=_environment(**environment), text=True)
    assert output.splitlines()[-1] == f"port: {port}"


def test_the_first_line_of_an_installation_is_printed_before_python_starts(clone: Path) -> None:
    python = clone / "python"
    python.write_text("#!/bin/sh\nexec sleep 1000\n")
    python.chmod(0o700)
    make = subprocess.Popen(
        ["make", "run", f"PYTHON={python}"],
        cwd=clone,
        env=_environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert make.stdout is not None
    with make.stdout:
        try:
            assert "Preparing .venv" in make.stdout.readline()
        finally:
            os.killpg(make.pid, signal.SIGTERM)
            make.wait()
