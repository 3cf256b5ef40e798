"""CSV and JSON Lines files of an export, which can be continued after an interruption.

Next to a file is `FILE.position`: of which export it is, how many of its bytes are written and for which rows, and
whether it is complete. So a file is never taken for that of another export.
"""

import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO

from services.cli.export_files import LineWriter, Position, is_written_after, take
from services.cli.export_rows import Row
from services.cli.failures import Failure
from services.cli.usage_errors import Mistake


class LineFile(LineWriter):
    """A CSV or JSON Lines file."""

    def __init__(self, path: Path, format_name: str, *, first: date, last: date, resume: bool) -> None:
        """Open a file, and continue it with `resume`. One that was written before its last day was over begins again.

        Raises:
            Mistake: An interrupted export must be continued or deleted, or is of another period or format.
            Failure: A file cannot be used, or another export is writing it.
        """
        self._path, self._positions = path, path.with_name(path.name + ".position")
        self._export = f"{format_name} {first} to {last}"
        self._last = last
        try:
            self._file = _opened(path)
            stored = self._stored_position(resume=resume)
            self.is_complete = bool(stored and stored["is_complete"])
            size = stored["bytes"] if stored else 0
            self._position = Position(stored["day"], stored["after"]) if stored else Position("")
            self._continue(size)
        except OSError as exc:
            raise Failure(f"{path} cannot be used: {exc.strerror}.") from exc
        super().__init__(self._file, format_name)
        if size:
            self.heading = b""

    def _continue(self, size: int) -> None:
        if self.is_complete:
            return
        self._file.seek(size)
        self._store(self._position)  # Before the file loses what it has: without this, it would seem complete.
        self._file.truncate(size)

    @property
    def position(self) -> Position | None:
        """Where to continue."""
        return self._position

    def write(self, rows: Sequence[Row], position: Position) -> None:
        """Write rows, and then their position, so that a continued file has each row once."""
        super().write(rows, position)
        os.fsync(self._file.fileno())
        self._position = position
        self._store(position)

    def close(self, *, is_complete: bool) -> None:
        """Close the file, and record that it is complete."""
        if is_complete and not self.is_complete:
            self._file.flush()
            self._store(self._position, is_complete=True)
        self._file.close()

    def _store(self, position: Position, *, is_complete: bool = False) -> None:
        written = {"export": self._export, "bytes": self._file.tell(), "is_complete": is_complete}
        draft = self._positions.with_name(self._positions.name + ".new")
        draft.write_text(json.dumps(written | asdict(position)), encoding="utf-8")
        draft.replace(self._positions)

    def _stored_position(self, *, resume: bool) -> dict[str, Any] | None:
        """Return the position of the file; None if it is to be written from the beginning."""
        size = os.fstat(self._file.fileno()).st_size
        stored = self._read_position()
        if not resume:
            if stored and not stored["is_complete"]:
                raise Mistake(f"{self._path} is not complete. Continue it with --resume, or delete {self._positions}.")
            return None
        if stored is None and size:
            raise Mistake(f"{self._path} was not written by an export. Use another file, or leave out --resume.")
        if stored and stored["export"] != self._export:
            message = f"{self._path} is an export of {stored['export']}, and not of {self._export}."
            raise Mistake(f"{message} Use another file, or delete {self._positions}.")
        if not size:
            return None
        if stored and size < stored["bytes"]:
            message = f"{self._path} is shorter than it was: {size:,} of {stored['bytes']:,} bytes."
            raise Failure(f"{message} Restore it, or delete {self._positions} to begin again.")
        return stored if stored and self._has_whole_days(stored) else None

    def _has_whole_days(self, stored: Mapping[str, Any]) -> bool:
        """Return whether the days that are written were over, so that they got no more rows."""
        day = self._last if stored["is_complete"] else date.fromisoformat(stored["day"] or "0001-01-01")
        return is_written_after(self._positions, day)

    def _read_position(self) -> dict[str, Any] | None:
        try:
            stored = json.loads(self._positions.read_text(encoding="utf-8"))
            date.fromisoformat(stored["day"] or "0001-01-01")
            return {
                "after": "",
                "is_complete": False,
                **stored,
                "bytes": int(stored["bytes"]),
                "export": str(stored["export"]),
            }
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as exc:
            raise Failure(f"{self._positions} is damaged. Delete it to begin again.") from exc


def _opened(path: Path) -> BinaryIO:
    """Open a file to be changed, and create it if it does not exist.

    Raises:
        OSError: It cannot be opened.
        Failure: It is no file, or another export is writing it.
    """
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Failure(f"{path} cannot be used: it is not a file.")
        take(file.fileno(), path)
    except BaseException:
        file.close()
        raise
    return file
