"""The two secrets of auth: given in a cluster, made once by a machine that runs alone.

Postgres means several processes, which must all know the same secrets; one that made its own would refuse every key.
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
"""64 bits where they are hexadecimal: no number of calls finds it."""


def admin_token(settings: AuthSettings) -> str:
    """Return what callers of the management API must show.

    Raises:
        StartError: It is not given and may not be made, cannot travel in metadata, or is short enough to be guessed.
    """
    path = settings.data_dir / "admin-token"
    token = _given(settings.admin_token) or _made(settings, path, setting="STACK_ADMIN_TOKEN")
    if not (token.isascii() and token.isprintable()):
        raise StartError("STACK_ADMIN_TOKEN has characters that no call can carry; use letters and digits")
    _check_length(token, "STACK_ADMIN_TOKEN", "make one with `openssl rand -hex 32`")
    return token


async def key_pepper(settings: AuthSettings, store: KeyStore, *, now: datetime) -> Pepper:
    """Return the pepper under which keys are kept.

    Raises:
        StartError: It is not given and may not be made, is short enough to be guessed, or keys that work were made
            under one that is neither it nor accepted, and would be refused as unknown.
    """
    path = settings.data_dir / "key-pepper"
    given = _given(settings.key_pepper)
    accepted = {other.id for other in accepted_peppers(settings)}
    # A pepper made now cannot be the one of keys that exist, and would be in the way of the right file.
    would_be_new = given is None and is_sqlite(settings.database) and not path.exists()
    if would_be_new and await store.unknown_pepper(frozenset(accepted), now=now):
        raise StartError(f"the database has keys but {path} is gone; restore it, or set AUTH_KEY_PEPPER")
    secret = given or _made(settings, path, setting="AUTH_KEY_PEPPER")
    _check_length(
        secret,
        "AUTH_KEY_PEPPER",
        "make one with `openssl rand -hex 32`, and name a short one that was in use in AUTH_KEY_PEPPERS_ACCEPTED",
    )
    pepper = Pepper(secret.encode())
    if await store.unknown_pepper(frozenset({pepper.id} | accepted), now=now):
        source = "AUTH_KEY_PEPPER" if given else str(path)
        remedy = "restore that one, or name it in AUTH_KEY_PEPPERS_ACCEPTED"
        raise StartError(f"the database has keys that were made with another pepper than {source}; {remedy}")
    await _tell_of_rotation(accepted - {pepper.id}, store, now=now)
    return pepper


def accepted_peppers(settings: AuthSettings) -> tuple[Pepper, ...]:
    """Return the further peppers under which keys are recognised."""
    listed = (_given(settings.key_peppers_accepted) or "").split(",")
    return tuple(Pepper(secret.strip().encode()) for secret in listed if secret.strip())


async def _tell_of_rotation(accepted: set[str], store: KeyStore, *, now: datetime) -> None:
    """Say in the log whether the accepted peppers are needed: without them these keys would be lost."""
    if accepted:
        keys = await store.count_with_peppers(frozenset(accepted), now=now)
        _log.info("keys that work are under another pepper and move when they are used", extra={"keys": keys})


def _check_length(secret: str, setting: str, remedy: str) -> None:
    if len(secret) < _CHARACTERS_MIN:
        raise StartError(
            f"{setting} can be guessed: it has {len(secret)} characters, and {_CHARACTERS_MIN} are the least; {remedy}"
        )


def _given(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value().strip() or None if secret else None


def _made(settings: AuthSettings, path: Path, *, setting: str) -> str:
    if not is_sqlite(settings.database):
        raise StartError(f"{setting} is not set; with Postgres it must be given, the same to every replica")
    return secret_file.read_or_create(path)
