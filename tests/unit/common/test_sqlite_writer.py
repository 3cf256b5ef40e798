"""The writer's thread on a file that another process writes too."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from services.common.db import sqlite_writer
from services.common.db.sqlite_writer import SQLiteWriter

_connect = partial(sqlite3.connect, check_same_thread=False)


def _insert(connection: sqlite3.Connection) -> float:
    connection.execute("INSERT INTO kept VALUES (1)")
    return time.monotonic()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "file.db")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE kept (number int)")
    return tmp_path / "file.db"


@pytest.fixture
def writer(file: Path) -> Iterator[SQLiteWriter]:
    with sqlite_writer.sqlite_writer(partial(_connect, file), checkpoint_pages=1_000) as writer:
        yield writer


@pytest.fixture
def other(file: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection like another process' in the middle of a write."""
    with closing(_connect(file)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


async def test_a_write_waits_for_another_processs_write(writer: SQLiteWriter, other: sqlite3.Connection) -> None:
    writing = asyncio.create_task(writer.write(_insert))
    done, _ = await asyncio.wait({writing}, timeout=0.3)
    assert not done
    released_at = time.monotonic()
    other.commit()
    assert await writing > released_at
    assert other.execute("SELECT count(*) FROM kept").fetchone() == (1,)


async def test_a_write_that_never_gets_the_lock_fails_and_the_next_one_succeeds(
    writer: SQLiteWriter, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "_BUSY_SECONDS_MAX", 0.2)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        await writer.write(_insert)
    other.commit()
    await writer.write(_insert)
    assert other.execute("SELECT count(*) FROM kept").fetchone() == (1,)


async def test_a_failed_write_is_rolled_back_and_releases_the_lock(writer: SQLiteWriter, file: Path) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        _insert(connection)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await writer.write(fail)
    with closing(sqlite3.connect(file, timeout=0)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


async def test_a_write_ends_before_the_connection_is_closed_also_when_the_block_raises(file: Path) -> None:
    """SQLite may crash the process if a thread still uses a connection that is closed."""
    started = threading.Event()

    def insert_slowly(connection: sqlite3.Connection) -> None:
        started.set()
        time.sleep(0.2)
        _insert(connection)

    with (  # noqa: PT012 - the writer's block raises
        pytest.raises(ZeroDivisionError),
        sqlite_writer.sqlite_writer(partial(_connect, file), checkpoint_pages=1_000) as writer,
    ):
        writing = asyncio.create_task(writer.write(insert_slowly))
        await asyncio.to_thread(started.wait)
        raise ZeroDivisionError

    await writing
    with closing(_connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (1,)
