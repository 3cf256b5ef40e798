"""Where the services of one machine listen, in a file for the commands that call them."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from services.common.runtime.private_files import open_private

NAME = "addresses.json"
"""The file's name in DATA_DIR."""


@contextmanager
def written(data_dir: Path, addresses: Mapping[str, str]) -> Iterator[None]:
    """Keep the services' addresses, by their names, in a file for the block.

    Raises:
        OSError: It cannot be written.
    """
    path = data_dir / NAME
    draft = path.with_suffix(".tmp")
    with os.fdopen(open_private(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w", encoding="utf-8") as file:
        json.dump(dict(addresses), file, indent=2)
    draft.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def read(data_dir: Path) -> dict[str, str]:
    """Return the addresses that a runner keeps there; empty when there is none, or the file cannot be read."""
    try:
        found = json.loads((data_dir / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}
