"""The admin token and the key pepper, from the settings or generated on first start.

They are generated on SQLite only. Replicas that share a Postgres database need the same secrets: a replica with a
generated pepper would deny every key.
"""

import logging
from datetime import datetime
from pathlib import Path

from pydantic import SecretStr

from services.auth.keys.model import KeyStore
from services.auth.keys.pepper import Pepper
from services.auth.settings import AuthSettings
from services.common.db.database import is_sqlite
from services.common.errors import StartError
from services.common.runtime import secret_file

_log = logging.getLogger(__name__)
_CHARACTERS_MIN = 16
"""64 bits in hexadecimal, too many to guess by calling the API."""


def admin_token(settings: AuthSettings) -> str:
    """Return the token that callers of the management API must send.

    Raises:
        StartError: The token is missing and cannot be generated, is not valid in gRPC metadata, or is too short.
    """
    path = settings.data_dir / "admin-token"
    token = _configured(settings.admin_token) or _read_or_generate(settings, path, setting="STACK_ADMIN_TOKEN")
    if not (token.isascii() and token.isprintable()):
        raise StartError("STACK_ADMIN_TOKEN has characters that are not printable ASCII. Use letters and digits.")
    _check_length(token, "STACK_ADMIN_TOKEN", "Generate one with `openssl rand -hex 32`.")
    return token


async def key_pepper(settings: AuthSettings, store: KeyStore, *, now: datetime) -> Pepper:
    """Return the pepper for new and stored keys.

    Raises:
        StartError: The pepper is missing and cannot be generated, is too short, or active keys use a pepper that is
            neither this one nor an accepted one, so they would be denied as unknown.
    """
    path = settings.data_dir / "key-pepper"
    configured = _configured(settings.key_pepper)
    accepted = {other.id for other in accepted_peppers(settings)}
    # A newly generated pepper cannot match existing keys, and its file would be in the way of a restored one.
    would_generate = configured is None and is_sqlite(settings.database) and not path.exists()
    if would_generate and await store.unknown_pepper(frozenset(accepted), now=now):
        raise StartError(f"The database has keys, but {path} is missing. Restore the file or set AUTH_KEY_PEPPER.")
    secret = configured or _read_or_generate(settings, path, setting="AUTH_KEY_PEPPER")
    _check_length(
        secret,
        "AUTH_KEY_PEPPER",
        "Generate one with `openssl rand -hex 32`, and name a short one that was in use in AUTH_KEY_PEPPERS_ACCEPTED.",
    )
    pepper = Pepper(secret.encode())
    if await store.unknown_pepper(frozenset({pepper.id} | accepted), now=now):
        source = "AUTH_KEY_PEPPER" if configured else str(path)
        remedy = "Restore that pepper, or add it to AUTH_KEY_PEPPERS_ACCEPTED."
        raise StartError(f"The database has keys that were created with a different pepper than {source}. {remedy}")
    await _log_rotation(accepted - {pepper.id}, store, now=now)
    return pepper


def accepted_peppers(settings: AuthSettings) -> tuple[Pepper, ...]:
    """Return the previous peppers that are still accepted."""
    listed = (_configured(settings.key_peppers_accepted) or "").split(",")
    return tuple(Pepper(secret.strip().encode()) for secret in listed if secret.strip())


async def _log_rotation(accepted: set[str], store: KeyStore, *, now: datetime) -> None:
    """Log how many active keys still need the accepted peppers. They stop working if those peppers are removed."""
    if accepted:
        keys = await store.count_with_peppers(frozenset(accepted), now=now)
        _log.info("Counted the active keys under a previous pepper. They are rehashed when used.", extra={"keys": keys})


def _check_length(secret: str, setting: str, remedy: str) -> None:
    if len(secret) < _CHARACTERS_MIN:
        raise StartError(
            f"{setting} is too short: it has {len(secret)} characters, and the minimum is {_CHARACTERS_MIN}. {remedy}"
        )


def _configured(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value().strip() or None if secret else None


def _read_or_generate(settings: AuthSettings, path: Path, *, setting: str) -> str:
    if not is_sqlite(settings.database):
        raise StartError(f"{setting} is not set, and Postgres requires it. Set it to the same value on every replica.")
    return secret_file.read_or_create(path)
