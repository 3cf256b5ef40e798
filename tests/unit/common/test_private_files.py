"""Files that only their owner can use, including files whose permissions were wider before."""

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.auth import server as auth
from services.common.db.database import open_database
from services.common.runtime.private_files import open_private, restrict_all
from services.common.runtime.secret_file import read_or_create


@pytest.fixture(autouse=True)
def widest_umask() -> Iterator[None]:
    """Make files created without an explicit mode world-readable."""
    before = os.umask(0)
    yield
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("exists", [False, True])
def test_a_file_that_is_opened_has_no_permissions_for_others(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "file"
    if exists:
        path.touch(0o664)
    os.close(open_private(path, os.O_WRONLY | os.O_CREAT))
    assert _mode(path) == 0o600


def test_files_in_a_linked_folder_elsewhere_keep_their_modes(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch(0o644)
    (tmp_path / "own").mkdir(0o755)
    (tmp_path / "own" / "file").touch(0o644)
    (tmp_path / "own" / "link").symlink_to(tmp_path / "elsewhere")
    restrict_all([tmp_path / "own", tmp_path / "missing"])
    assert (_mode(tmp_path / "own"), _mode(tmp_path / "own" / "file")) == (0o700, 0o600)
    assert (_mode(tmp_path / "elsewhere"), _mode(tmp_path / "elsewhere" / "file")) == (0o777, 0o644)


@pytest.mark.parametrize("exists", [False, True])
def test_a_single_service_restricts_its_database_lock_and_secret_to_its_owner(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "var"
    if exists:
        folder.mkdir()
        for name in ("auth.db", "auth.db-wal", "auth.db.lock", "auth.db.mode.lock"):
            (folder / name).touch()
        (folder / "key-pepper").write_text("secret\n")

    async def open_and_look() -> dict[str, int]:
        url = f"sqlite:///{folder}/auth.db"
        async with open_database(url, migrations=auth.MIGRATIONS, version_table=auth.VERSION_TABLE):
            read_or_create(folder / "key-pepper")
            return {path.name: _mode(path) for path in folder.iterdir()}

    modes = asyncio.run(open_and_look())
    names = ("auth.db", "auth.db-shm", "auth.db-wal", "auth.db.lock", "auth.db.mode.lock", "key-pepper")
    assert modes == dict.fromkeys(names, 0o600)
    assert exists or _mode(folder) == 0o700
