"""Secrets in files of a single machine."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from services.common.errors import StartError
from services.common.runtime.secret_file import read_or_create

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from pathlib import Path
from services.common.runtime.secret_file import read_or_create
print("ready", flush=True)
sys.stdin.readline()
print(read_or_create(Path(sys.argv[1])))
"""


def test_a_secret_is_created_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "secret"

    secret = read_or_create(path)

    assert len(secret) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_or_create(path) == secret
    assert read_or_create(tmp_path / "other") != secret


def test_no_temporary_file_is_left_next_to_the_secret(tmp_path: Path) -> None:
    read_or_create(tmp_path / "secret")
    read_or_create(tmp_path / "secret")

    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_processes_that_start_at_once_share_one_secret(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "secret")]
    programs = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for program in programs:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"

    for program in programs:
        assert program.stdin is not None
        program.stdin.write("go\n")
        program.stdin.flush()
    answers = {program.communicate(timeout=30)[0].strip() for program in programs}

    assert answers == {(tmp_path / "secret").read_text().strip()}
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_secret_that_another_process_wrote_first_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file appears between the check and the write."""
    path = tmp_path / "secret"
    path.write_text("theirs\n")
    monkeypatch.setattr(Path, "exists", lambda self: False)

    assert read_or_create(path) == "theirs"
    assert [one.name for one in tmp_path.iterdir()] == ["secret"]


def test_an_empty_secret_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("\n")

    with pytest.raises(StartError, match=r"secret is empty\. Restore it"):
        read_or_create(tmp_path / "secret")


def test_a_damaged_secret_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\xff\x00")

    with pytest.raises(StartError, match=r"secret is damaged\. Restore it"):
        read_or_create(tmp_path / "secret")


def test_a_folder_that_cannot_be_written_is_reported_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StartError, match=r"Cannot store a secret in .*\. Choose another DATA_DIR"):
        read_or_create(tmp_path / "file" / "secret")
