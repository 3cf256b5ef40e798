"""Generated secrets, in files that only their owner can read."""

import os
import secrets
from pathlib import Path

from services.common.errors import StartError
from services.common.runtime.private_files import make_private_folder, open_private, restrict


def read_or_create(path: Path, *, random_bytes: int = 32) -> str:
    """Return the secret in the file `path`. If the file does not exist, generate a secret and write it first.

    Processes that start at the same time all return the same secret.

    Raises:
        StartError: The file cannot be read or written, is damaged, or is empty.
    """
    try:
        _create(path, secrets.token_hex(random_bytes))
        restrict(path)
        secret = path.read_text(encoding="ascii").strip()
    except OSError as exc:
        raise StartError(f"Cannot store a secret in {path}: {exc.strerror}. Choose another DATA_DIR.") from exc
    except UnicodeDecodeError as exc:
        raise StartError(
            f"{path} is damaged. Restore it from a backup, or delete it to generate a new secret."
        ) from exc
    if not secret:
        raise StartError(f"{path} is empty. Restore it from a backup, or delete it to generate a new secret.")
    return secret


def _create(path: Path, secret: str) -> None:
    """Write the file atomically, unless it exists."""
    if path.exists():
        return
    make_private_folder(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = open_private(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        return  # Another process has created the file. Use its secret.
    finally:
        draft.unlink()
