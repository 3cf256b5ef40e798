"""What make does before anything is installed."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def test_the_first_line_of_an_installation_is_printed_before_any_python_has_started(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 1000\n")
    python.chmod(0o700)
    shutil.copy(_ROOT / "Makefile", tmp_path)
    shutil.copy(_ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "run.lock").touch()
    make = subprocess.Popen(
        ["make", "run", f"PYTHON={python}"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
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
