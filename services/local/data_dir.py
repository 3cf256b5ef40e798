"""DATA_DIR: the private folder of a single machine's databases, logs and secrets."""

import tempfile
from fnmatch import fnmatch
from pathlib import Path

from services.common.errors import StartError
from services.common.runtime.private_files import make_private_folder, restrict, restrict_all

_STACK_FILES = (
    *("auth.db*", "inference.db*", "valkey*", "logs", "run", "run.lock", "addresses.*"),
    *(
        "responses-valkey",
        "responses-secret*",
        "receipt-key*",
        "key-pepper*",
        "admin-token*",
        "first-api-key*",
        ".*-*.*.*",
    ),
)
"""Name patterns of the stack's files in DATA_DIR, including temporary files and copies of secrets."""
_SHOWN_MAX = 200
"""Maximum characters of a path in a message."""


def prepare_data_dir(path: Path) -> None:
    """Create DATA_DIR, and remove other users' access to the stack's files in it.

    An earlier version or another umask may have left them readable. Other files are not touched, and the folder itself
    is restricted only if it contains nothing else, because DATA_DIR may be a home directory.

    Raises:
        StartError: The folder is not writable.
    """
    try:
        make_private_folder(path)
        with tempfile.TemporaryFile(dir=path):
            pass
        entries = list(path.iterdir())
    except OSError as exc:
        shown = str(path) if len(str(path)) <= _SHOWN_MAX else f"{str(path)[:_SHOWN_MAX]}…"
        raise StartError(f"Cannot write to {shown}: {exc.strerror}. Set DATA_DIR to a writable folder.") from exc
    stack_files = [entry for entry in entries if any(fnmatch(entry.name, pattern) for pattern in _STACK_FILES)]
    restrict_all(stack_files)
    if len(stack_files) == len(entries):
        restrict(path)
