"""A CSV file of requests that Groq counted, in a database on disk, so that a file of any size can be compared."""

import csv
import json
import math
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services.cli.failures import Failure
from services.cli.usage_errors import Mistake

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE request (
    id TEXT PRIMARY KEY, time REAL NOT NULL, tokens INTEGER, is_matched INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""
_INSERT = """
INSERT INTO request (id, time, tokens) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens, time = min(time, excluded.time)
"""
_MILLISECONDS_FROM = 1e11
"""Unix times from here on are in milliseconds; in seconds, it is the year 5138."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns in the file."""

    id: str
    time: str
    tokens: tuple[str, ...] = ()
    """Columns whose sum is the number of tokens; empty if the file has none."""


@dataclass(frozen=True, slots=True)
class GroqRequest:
    """A request in the file."""

    id: str
    time: float
    """Unix seconds."""
    tokens: int | None
    """None if the file has no tokens."""


class GroqFile:
    """The requests of a file."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def span(self) -> tuple[float, float] | None:
        """Return the times of the first and the last request; None without requests."""
        first, last = self._database.execute("SELECT min(time), max(time) FROM request").fetchone()
        return None if first is None else (first, last)

    def match(self, ids: Sequence[str]) -> Mapping[str, GroqRequest]:
        """Return the requests with these ids, and mark them as matched."""
        found = "id IN (SELECT value FROM json_each(?))"
        rows = self._database.execute(f"SELECT id, time, tokens FROM request WHERE {found}", [json.dumps(ids)])
        requests = {row[0]: GroqRequest(*row) for row in rows}
        self._database.execute(f"UPDATE request SET is_matched = 1 WHERE {found}", [json.dumps(ids)])
        return requests

    def unmatched(self, first: float, end: float) -> Iterator[GroqRequest]:
        """Yield the requests from `first` to before `end` that were never matched, in the order of their ids."""
        query = "SELECT id, time, tokens FROM request WHERE NOT is_matched AND time >= ? AND time < ? ORDER BY id"
        for row in self._database.execute(query, (first, end)):
            yield GroqRequest(*row)


@contextmanager
def read(lines: Iterable[str], columns: Columns, *, delimiter: str = ",") -> Iterator[GroqFile]:
    """Read a CSV file. A request with several lines has the sum of their tokens.

    Raises:
        Mistake: A column is missing.
        Failure: A line cannot be read, or there is no room for the database.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="stackctl-") as folder, _database(Path(folder)) as database:
            database.execute("BEGIN")
            database.executemany(_INSERT, _parsed(lines, columns, delimiter))
            database.execute("COMMIT")
            yield GroqFile(database)
    except sqlite3.Error as exc:
        why = f"The file cannot be copied to a temporary database: {exc}."
        raise Failure(f"{why} Set TMPDIR to a folder with more room than the file.") from exc


@contextmanager
def _database(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "requests.db", isolation_level=None)) as database:
        database.executescript(_SCHEMA)
        yield database


def _parsed(lines: Iterable[str], columns: Columns, delimiter: str) -> Iterator[tuple[str, float, int | None]]:
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        parse = _Parser([name.strip() for name in next(reader, [])], columns)
        for cells in reader:
            if cells:
                yield parse.row(cells)
    except (ValueError, csv.Error) as exc:  # Also text that is not UTF-8.
        raise Failure(f"Line {reader.line_num or 1} of the file cannot be read: {exc}.") from exc


class _Parser:
    """Reads the cells of a line."""

    def __init__(self, names: Sequence[str], columns: Columns) -> None:
        missing = [name for name in (columns.id, columns.time, *columns.tokens) if name not in names]
        if missing:
            found = f"Its columns are: {', '.join(names)}." if names else "It is empty."
            raise Mistake(f"The file has no column {', '.join(map(repr, missing))}. {found} Name them with --columns.")
        if repeated := [name for name in (columns.id, columns.time, *columns.tokens) if names.count(name) > 1]:
            raise Mistake(f"The file has several columns {repeated[0]!r}. Rename all but one of them.")
        self._width = len(names)
        self._id, self._time = names.index(columns.id), names.index(columns.time)
        self._tokens = [names.index(name) for name in columns.tokens]

    def row(self, cells: Sequence[str]) -> tuple[str, float, int | None]:
        """Return id, time and tokens.

        Raises:
            ValueError: The line is not complete, or a cell is not what it should be.
        """
        if len(cells) != self._width:
            raise ValueError(f"expected {self._width} columns, got {len(cells)}")
        request_id = cells[self._id].strip()
        if not request_id:
            raise ValueError("the id is empty")
        tokens = sum(_count(cells[place]) for place in self._tokens) if self._tokens else None
        return request_id, _unix_seconds(cells[self._time].strip()), tokens


def _count(text: str) -> int:
    text = text.strip()
    if text and not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise ValueError(f"{text[:40]!r} is not a number of tokens")
    return int(text or 0)


def _unix_seconds(text: str) -> float:
    """Return a time in ISO 8601, in UTC without an offset, or in Unix seconds or milliseconds."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{text[:40]!r} is not a time in ISO 8601 or a Unix time") from None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    else:
        seconds = seconds / 1000 if abs(seconds) >= _MILLISECONDS_FROM else seconds
    if not math.isfinite(seconds) or not 0 <= seconds < _MILLISECONDS_FROM:
        raise ValueError(f"{text[:40]!r} is not a time")
    return seconds
