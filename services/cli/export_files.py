"""Files of an export, which can be continued after an interruption.

A CSV or JSON Lines file has a second file next to it while it is not complete, `FILE.position`: how many bytes of the
first one are written, and for which rows. Parquet files cannot be continued, so there is one for each day, which gets
its name when it is complete.
"""

import csv
import io
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from services.cli.export_rows import COLUMNS, Row, with_time_as_text
from services.cli.failures import Failure
from services.cli.usage_errors import Mistake
from services.common.csv_cells import escaped


@dataclass(frozen=True, slots=True)
class Position:
    """How far an export has come."""

    day: str
    after: str = ""
    """Id of the last row of the day that is written; empty before the first one."""


def is_complete(path: Path) -> bool:
    """Return whether a CSV or JSON Lines file exists and is complete."""
    return path.exists() and not _positions_of(path).exists()


def _positions_of(path: Path) -> Path:
    return path.with_name(path.name + ".position")


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


class LineFile(LineWriter):
    """A CSV or JSON Lines file."""

    def __init__(self, path: Path, format_name: str, *, period: str, resume: bool) -> None:
        """Open a file, and continue it with `resume`.

        Raises:
            Mistake: An interrupted export must be continued or deleted, or is of another period or format.
            Failure: A file cannot be used.
        """
        self._path, self._positions = path, _positions_of(path)
        self._export = f"{format_name} {period}"
        stored = self._read_position()
        if stored is not None and not resume:
            raise Mistake(f"{path} is not complete. Continue it with --resume, or delete {self._positions}.")
        size = stored["bytes"] if stored else 0
        try:
            self._file = path.open("r+b" if stored else "wb")
            self._file.truncate(size)
            self._file.seek(size)
        except OSError as exc:
            raise Failure(f"{path} cannot be used: {exc.strerror}.") from exc
        super().__init__(self._file, format_name)
        if size:
            self.heading = b""
        self._position = Position(stored["day"], stored["after"]) if stored else Position("")
        self._store(self._position)

    @property
    def position(self) -> Position | None:
        """Where to continue."""
        return self._position

    def write(self, rows: Sequence[Row], position: Position) -> None:
        """Write rows, and then their position, so that a continued file has each row once."""
        super().write(rows, position)
        os.fsync(self._file.fileno())
        self._store(position)

    def close(self, *, is_complete: bool) -> None:
        """Close the file, and remove the position of a complete one."""
        self._file.close()
        if is_complete:
            self._positions.unlink(missing_ok=True)

    def _store(self, position: Position) -> None:
        stored = {"export": self._export, "bytes": self._file.tell(), **asdict(position)}
        draft = self._positions.with_name(self._positions.name + ".new")
        draft.write_text(json.dumps(stored), encoding="utf-8")
        draft.replace(self._positions)

    def _read_position(self) -> dict[str, Any] | None:
        try:
            stored: dict[str, Any] = json.loads(self._positions.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            raise Failure(f"{self._positions} is damaged. Delete it to begin again.") from exc
        if stored.get("export") != self._export:
            message = f"{self._path} is an export of {stored.get('export')}, and not of {self._export}."
            raise Mistake(f"{message} Use another file, or delete {self._positions}.")
        return stored


class ParquetFolder:
    """A folder with a Parquet file for each day."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        """Use a folder, and keep the files of complete days with `resume`.

        Raises:
            Failure: `pyarrow` is not installed, or the folder cannot be created.
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
        except OSError as exc:
            raise Failure(f"{path} cannot be used: {exc.strerror}.") from exc

    @property
    def position(self) -> Position | None:
        """Complete days are skipped one by one."""
        return None

    def begin_day(self, day: date) -> bool:
        """Begin the file of a day, unless it is complete and is to be kept."""
        target = self._path / f"usage-{day.isoformat()}.parquet"
        if self._resume and target.exists():
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
