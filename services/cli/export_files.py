"""Where an export writes its rows.

Parquet files cannot be continued after an interruption, so there is one for each day, which gets its name when it is
complete. CSV and JSON Lines files can (line_file.py).
"""

import csv
import fcntl
import io
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from services.cli.export_rows import COLUMNS, Row, with_time_as_text
from services.cli.failures import Failure
from services.common.csv_cells import escaped

_DAY_SECONDS = 86_400
_LAST_ROWS_SECONDS = 3_600
"""Time after the end of a day in which its last rows are added."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far an export has come."""

    day: str
    after: str = ""
    """Id of the last row of the day that is written; empty before the first one."""


class Output(Protocol):
    """Where an export writes its rows, day after day."""

    @property
    def position(self) -> Position | None:
        """Where to continue; None to begin."""

    def begin_day(self, day: date) -> bool:
        """Begin a day, and return whether its rows are needed."""

    def write(self, rows: Sequence[Row], position: Position) -> None:
        """Write rows of the day; `position` is that after them."""

    def end_day(self) -> None:
        """End the day."""

    def close(self, *, is_complete: bool) -> None:
        """Release the files. Nothing is left to continue if the export is complete."""


class LineWriter:
    """Writes lines of CSV or JSON to a stream."""

    def __init__(self, stream: BinaryIO, format_name: str) -> None:
        """Write to `stream` in the format `csv` or `jsonl`."""
        self._stream = stream
        self._encode = _csv_lines if format_name == "csv" else _json_lines
        self.heading = _csv_text([list(COLUMNS)]) if format_name == "csv" else b""

    @property
    def position(self) -> Position | None:
        """A stream cannot be continued."""
        return None

    def begin_day(self, day: date) -> bool:
        """Write the heading before the first day."""
        if self.heading:
            self._stream.write(self.heading)
            self.heading = b""
        return True

    def write(self, rows: Sequence[Row], position: Position) -> None:
        """Write rows."""
        self._stream.write(self._encode(rows))
        self._stream.flush()

    def end_day(self) -> None:
        """Days are not separated."""

    def close(self, *, is_complete: bool) -> None:
        """Flush the stream."""
        self._stream.flush()


class ParquetFolder:
    """A folder with a Parquet file for each day."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        """Use a folder, and keep the files of complete days with `resume`.

        Raises:
            Failure: `pyarrow` is not installed, the folder cannot be created, or another export uses it.
        """
        try:
            from services.cli import parquet
        except ModuleNotFoundError as exc:
            raise Failure(
                "The format parquet needs pyarrow. Install it with `pip install pyarrow`, or choose another format."
            ) from exc
        self._parquet = parquet
        self._path = path
        self._resume = resume
        self._writer: Any = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            take(self._lock, path)
        except OSError as exc:
            raise Failure(f"{path} cannot be used: {exc.strerror}.") from exc

    @property
    def position(self) -> Position | None:
        """Complete days are skipped one by one."""
        return None

    def begin_day(self, day: date) -> bool:
        """Begin the file of a day, unless it is complete and is to be kept."""
        target = self._path / f"usage-{day.isoformat()}.parquet"
        if self._resume and is_written_after(target, day):
            return False
        self._writer = self._parquet.DayFile(target)
        return True

    def write(self, rows: Sequence[Row], position: Position) -> None:
        """Write rows."""
        self._writer.write(rows)

    def end_day(self) -> None:
        """Complete the file."""
        self._writer.complete()

    def close(self, *, is_complete: bool) -> None:
        """Remove the file of a day that is not complete."""
        if self._writer is not None and not is_complete:
            with suppress(OSError):
                self._writer.discard()
        os.close(self._lock)


def take(descriptor: int, path: Path) -> None:
    """Lock an open file or folder until it is closed: two exports would write over each other's rows.

    Raises:
        Failure: Another export has locked it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise Failure(f"Another export is writing {path}. Wait for its end, or use another --output.") from exc


def is_written_after(file: Path, day: date) -> bool:
    """Return whether a file exists and was written after the last rows of a day."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
    try:
        return file.stat().st_mtime >= midnight + _DAY_SECONDS + _LAST_ROWS_SECONDS
    except FileNotFoundError:
        return False


def _csv_lines(rows: Sequence[Row]) -> bytes:
    return _csv_text([[_cell(value) for value in with_time_as_text(row).values()] for row in rows])


def _csv_text(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return escaped(value) if isinstance(value, str) else value


def _json_lines(rows: Sequence[Row]) -> bytes:
    return b"".join(json.dumps(with_time_as_text(row), ensure_ascii=False).encode() + b"\n" for row in rows)
