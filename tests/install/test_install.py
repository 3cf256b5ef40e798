"""The first installation of a clone: interrupted, broken, and with missing prerequisites."""

import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.install.clone import Clone, Make

pytestmark = pytest.mark.timeout(900)
_GAP_SECONDS_MAX = 6.0
"""Progress is printed every two seconds; the rest is for a busy machine."""


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """Return a clone without an environment."""
    (tmp_path / "clone").mkdir()
    return Clone(tmp_path / "clone")


def test_after_ctrl_c_at_any_moment_the_same_command_succeeds(clone: Clone) -> None:
    moments: list[tuple[str, Callable[[Make], bool]]] = [
        ("the first line", lambda make: "Preparing" in make.text),
        ("an environment without pip", lambda make: (clone.venv / "bin" / "python").exists()),
        ("packages are collected", lambda make: bool(re.search("collected [1-9]", make.text))),
        ("packages are installed", lambda make: len(list(clone.venv.glob("lib/*/site-packages/*.dist-info"))) > 9),
        ("our own package", lambda make: "own package" in make.text),
    ]
    for name, has_come in moments:
        make = clone.make()
        make.until(lambda make=make, has_come=has_come: has_come(make))  # type: ignore[misc]
        make.send_ctrl_c()
        assert make.wait() != 0, name
        assert "Traceback" not in make.text, (name, make.text)
        assert not (clone.venv / "run.stamp").exists(), name
    make = clone.make()
    assert make.wait() == 0, make.text
    assert clone.works()
    times = [0.0, *(seconds for seconds, _ in make.lines)]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    print(f"first line after {times[1]:.2f} s, all {times[-1]:.0f} s, longest gap {max(gaps):.1f} s")
    assert max(gaps) < _GAP_SECONDS_MAX, make.lines


def test_an_environment_left_without_pip_by_an_older_version_is_repaired(clone: Clone) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(clone.venv)], check=True)
    make = clone.make()
    assert make.wait() == 0, make.text
    assert clone.works()


def test_a_python_without_ensurepip_is_reported_in_one_sentence_and_nothing_is_left_behind(
    clone: Clone, tmp_path: Path
) -> None:
    make = clone.make(python=_python_without("ensurepip", tmp_path / "python"))
    assert make.wait() != 0
    assert "python3-venv" in make.text
    assert "Traceback" not in make.text
    assert not clone.venv.exists()
    make = clone.make()
    assert make.wait() == 0, make.text
    assert clone.works()


def test_an_unreachable_index_is_reported_with_pips_reason_and_the_next_try_succeeds(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        for name in ("PIP_INDEX_URL", "PIP_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")
        for name in ("PIP_CONFIG_FILE", "PIP_EXTRA_INDEX_URL"):
            patch.setenv(name, "/dev/null" if name.endswith("FILE") else "")
        patch.setenv("PIP_RETRIES", "0")
        patch.setenv("PIP_NO_CACHE_DIR", "1")
        make = clone.make()
        assert make.wait() != 0
        assert "Installing failed" in make.text
        assert "ERROR" in make.text
    make = clone.make()
    assert make.wait() == 0, make.text
    assert clone.works()


def _python_without(module: str, prefix: Path) -> str:
    """Return the path of a copy of this Python whose standard library lacks a module."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    unneeded = shutil.ignore_patterns(module, "site-packages", "test", "tests", "__pycache__")
    library = Path(sys.base_prefix) / "lib" / version
    shutil.copytree(library, prefix / "lib" / version, ignore=unneeded, symlinks=True)
    (prefix / "bin").mkdir()
    shutil.copy2(Path(sys.base_prefix) / "bin" / version, prefix / "bin" / version)
    python = prefix / "bin" / version
    assert subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode
    return str(python)
