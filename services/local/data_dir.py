"""DATA_DIR: the folder of one machine's databases, logs and secrets, for its owner alone."""

import tempfile
from fnmatch import fnmatch
from pathlib import Path

from services.common.errors import StartError
from services.common.runtime.private_files import make_private_folder, restrict, restrict_all

_OWN = (
    *("auth.db*", "inference.db*", "valkey*", "logs", "run", "run.lock", "addresses.*"),
    *("key-pepper*", "admin-token*", "first-api-key*", ".*-*.*.*"),
)
"""Names of what the stack keeps there, drafts of secrets and copies beside them included."""
_SHOWN_MAX = 200
"""Characters of a path in a sentence."""


def prepare_data_dir(path: Path) -> None:
    """Create DATA_DIR, and restrict what an earlier version, or another umask, left open to other users.

    Only what is the stack's is touched. The folder itself is restricted when nothing else is in it: DATA_DIR may be
    somebody's home.

    Raises:
        StartError: It cannot be written.
    """
    try:
        make_private_folder(path)
        with tempfile.TemporaryFile(dir=path):
            pass
        entries = list(path.iterdir())
    except OSError as exc:
        shown = str(path) if len(str(path)) <= _SHOWN_MAX else f"{str(path)[:_SHOWN_MAX]}…"
        raise StartError(f"cannot write to {shown}: {exc.strerror}; set DATA_DIR to a folder of yours") from exc
    own = [entry for entry in entries if any(fnmatch(entry.name, pattern) for pattern in _OWN)]
    restrict_all(own)
    if len(own) == len(entries):
        restrict(path)
