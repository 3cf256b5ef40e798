"""`make run`: the data folder, its permissions, and data that cannot be used."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.make_run.runner import Runner, either_layout, open_to_others, secret_in, send_chat
from tests.e2e.stack import bare_environment


def _can_remount() -> bool:
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "ro", "none", "/tmp"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.long
@either_layout
def test_everything_in_data_dir_is_readable_by_its_owner_only_including_files_of_an_earlier_version(
    start: Callable[..., Runner], tmp_path: Path, workers: str
) -> None:
    var = tmp_path / "var"
    old = ["auth.db", "inference.db", "run.lock", "logs/stack.log", "logs/auth.log.1", "valkey/appendonlydir/old"]
    for name in old:
        (var / name).parent.mkdir(parents=True, exist_ok=True)
        (var / name).touch()
    for path in (var, *var.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    runner = start(STACK_WORKERS=workers)
    assert send_chat(runner, secret_in(runner.read_until("Ctrl-C"))).status_code == 200
    found = {str(path.relative_to(var)) for path in var.rglob("*")}
    assert found > {
        *old,
        "auth.db-wal",
        "auth.db-shm",
        "inference.db-wal",
        "key-pepper",
        "admin-token",
        "first-api-key",
    }
    assert open_to_others(var) == []


@pytest.mark.long
def test_with_a_long_data_dir_the_socket_is_in_the_folder_for_temporary_files(
    start: Callable[..., Runner], tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(prefix="stack-tmp-", dir="/tmp") as short:
        runner = start(tmp_path / ("long" * 20) / "var", TMPDIR=short, XDG_RUNTIME_DIR=str(tmp_path / "nowhere"))
        secret = secret_in(runner.read_until("Ctrl-C"))
        assert send_chat(runner, secret).status_code == 200
        assert len(list(Path(short).glob("stack-*/valkey.sock"))) == 1
        runner.stop()
        assert list(Path(short).iterdir()) == []


@pytest.mark.long
@pytest.mark.skipif(not _can_remount(), reason="needs the right to mount file systems, as root has")
@pytest.mark.parametrize("path", ["long" * 20, pytest.param("var", marks=pytest.mark.long)])
def test_a_read_only_tmp_is_no_problem(ports: dict[str, int], path: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="stack-", dir=Path.home()))
    runner = Runner(folder / path, ports, output=subprocess.PIPE, command=_read_only("/tmp"), TMPDIR="/tmp")
    try:
        assert send_chat(runner, secret_in(runner.read_until("Ctrl-C"))).status_code == 200
    finally:
        runner.stop()
        shutil.rmtree(folder)


@pytest.mark.skipif(not _can_remount(), reason="needs the right to mount file systems, as root has")
def test_a_machine_without_a_folder_for_sockets_is_reported_in_one_sentence() -> None:
    program = "import sys; from pathlib import Path; from services.local.sockets import socket_folder\n"
    program += "with socket_folder(Path('/' + 'long' * 30)): pass"
    command = [*_read_only("/tmp", "/var/tmp"), sys.executable, "-c", program]
    environment = {**bare_environment(), "PYTHONPATH": str(Path(__file__).parents[3]), "TMPDIR": "/nowhere"}
    done = subprocess.run(command, cwd="/proc", env=environment, capture_output=True, text=True, check=False)
    assert "StartError: No folder for Unix sockets was found: /long" in done.stderr.splitlines()[-1]
    assert "Set TMPDIR" in done.stderr.splitlines()[-1]


def _read_only(*folders: str) -> list[str]:
    """Return a command that runs another one with these folders read-only."""
    # With their contents: this checkout may be in one of them.
    mounts = " && ".join(f"mount --bind {one} {one} && mount -o remount,bind,ro {one}" for one in folders)
    return ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]


@pytest.mark.long
@pytest.mark.parametrize("name", ["*.incr.aof", "*.manifest"])
def test_unreadable_valkey_data_are_moved_aside_and_the_count_comes_from_the_ledger(
    start: Callable[..., Runner], tmp_path: Path, name: str
) -> None:
    var = tmp_path / "var"
    runner = start()
    secret = secret_in(runner.read_until("Ctrl-C"))
    assert send_chat(runner, secret).headers["x-ratelimit-remaining-requests"] == "999"
    runner.stop()
    (damaged,) = (var / "valkey" / "appendonlydir").glob(name)
    with damaged.open("ab") as file:
        file.write(b"\0garbage of a power loss" * 100)
    runner = start()
    text = runner.read_until("Ctrl-C")
    assert "Valkey could not read its data and was started without them. They are now in" in text
    assert send_chat(runner, secret).headers["x-ratelimit-remaining-requests"] == "998"
    runner.stop()
    assert len(list(var.glob("valkey.unreadable-*/appendonlydir"))) == 1
    assert open_to_others(var) == []


def test_data_of_a_valkey_that_does_not_start_are_not_moved(refused: Callable[..., str], tmp_path: Path) -> None:
    kept = tmp_path / "var" / "valkey" / "appendonlydir" / "appendonly.aof.1.incr.aof"
    kept.parent.mkdir(parents=True)
    kept.write_text("kept")
    assert "valkey ended during startup" in refused(STACK_VALKEY_SERVER="false")
    assert kept.read_text() == "kept"
    assert list((tmp_path / "var").glob("valkey*")) == [tmp_path / "var" / "valkey"]


@pytest.mark.long
@pytest.mark.parametrize(
    "content", [b"\xff\xfe", *(pytest.param(one, marks=pytest.mark.long) for one in (b"\0" * 40, b""))]
)
def test_a_damaged_first_key_is_reported_with_the_remedy_and_unknown_files_in_data_dir_keep_their_modes(
    start: Callable[..., Runner], tmp_path: Path, content: bytes
) -> None:
    var = tmp_path / "var"
    var.mkdir()
    (var / "first-api-key").write_bytes(content)
    (var / "notes.txt").touch()
    for path in (var, var / "notes.txt"):
        path.chmod(0o755)
    text = start().read_until("Ctrl-C")
    assert "not in this database; to create a new key, remove" in text
    assert open_to_others(var) == [".", "notes.txt"]


def test_an_unwritable_data_dir_is_reported_in_one_sentence(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "DATA_DIR" in refused(tmp_path / "file" / "var")
