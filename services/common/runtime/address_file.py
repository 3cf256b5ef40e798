"""A file with the addresses of the services on this machine, for the commands that call them."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from services.common.runtime.private_files import open_private

NAME = "addresses.json"
"""Name of the file in DATA_DIR."""


@contextmanager
def written(data_dir: Path, addresses: Mapping[str, str]) -> Iterator[None]:
    """Write the services' addresses, by service name, and remove the file at the end of the block.

    Raises:
        OSError: The file cannot be written.
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
    """Return the services' addresses by service name; empty if the file is missing or cannot be read."""
    try:
        addresses = json.loads((data_dir / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(addresses, dict):
        return {}
    return {name: value for name, value in addresses.items() if isinstance(value, str)}
