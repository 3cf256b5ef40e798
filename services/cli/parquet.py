"""Parquet files, with the optional package `pyarrow`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from services.cli.export_rows import COLUMNS, Row

_GROUP_ROWS = 20_000
_TYPES = {str: pyarrow.string(), int: pyarrow.int64(), bool: pyarrow.bool_(), float: pyarrow.timestamp("ms", tz="UTC")}
_SCHEMA = pyarrow.schema([(name, _TYPES[kind]) for name, kind in COLUMNS.items()])


class DayFile:
    """A Parquet file that gets its name when it is complete."""

    def __init__(self, path: Path) -> None:
        """Begin a file."""
        self._path = path
        self._draft = path.with_name(f".{path.name}.part")
        self._writer: Any = parquet.ParquetWriter(self._draft, _SCHEMA, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows."""
        self._rows += [{**row, "reserved_at": round(row["reserved_at"] * 1000)} for row in rows]
        if len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def complete(self) -> None:
        """Write the last rows, and give the file its name."""
        self._flush()
        self._writer.close()
        self._draft.replace(self._path)

    def discard(self) -> None:
        """Remove the file, unless it is complete."""
        self._writer.close()
        self._draft.unlink(missing_ok=True)

    def _flush(self) -> None:
        self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=_SCHEMA))
        self._rows = []
