"""Secrets that a single machine makes for itself, in files that only their owner can read."""

import os
import secrets
from pathlib import Path

from services.common.errors import StartError
from services.common.runtime.private_files import make_private_folder, open_private, restrict


def read_or_create(path: Path, *, random_bytes: int = 32) -> str:
    """Return the secret in `path`, made and written first when there is none.

    Safe when several processes start at once: all return the same secret.

    Raises:
        StartError: The file cannot be read or written, or is empty.
    """
    try:
        _create(path, secrets.token_hex(random_bytes))
        restrict(path)
        secret = path.read_text(encoding="ascii").strip()
    except OSError as exc:
        raise StartError(f"cannot keep a secret in {path}: {exc.strerror}; choose another DATA_DIR") from exc
    except UnicodeDecodeError as exc:
        raise StartError(f"{path} is damaged; restore it from a backup, or remove it to make a new secret") from exc
    if not secret:
        raise StartError(f"{path} is empty; restore it from a backup, or remove it to make a new secret")
    return secret


def _create(path: Path, secret: str) -> None:
    """Write the file whole or not at all: the content is complete before the name appears."""
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
        return  # Another process was first; its secret is the one.
    finally:
        draft.unlink()
