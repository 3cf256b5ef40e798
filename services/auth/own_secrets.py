"""The two secrets of auth: given in a cluster, made once by a machine that runs alone.

Postgres means several processes, which must all know the same secrets; one that made its own would refuse every key.
"""

from pathlib import Path

from pydantic import SecretStr

from services.auth.keys import KeyStore
from services.auth.pepper import Pepper
from services.auth.settings import AuthSettings
from services.common import secret_file
from services.common.database import is_sqlite
from services.common.errors import StartError


def admin_token(settings: AuthSettings) -> str:
    """Return what callers of the management API must show.

    Raises:
        StartError: It is not given and may not be made, or cannot travel in metadata.
    """
    path = settings.data_dir / "admin-token"
    token = _given(settings.admin_token) or _made(settings, path, setting="STACK_ADMIN_TOKEN")
    if not (token.isascii() and token.isprintable()):
        raise StartError("STACK_ADMIN_TOKEN has characters that no call can carry; use letters and digits")
    return token


async def key_pepper(settings: AuthSettings, store: KeyStore) -> Pepper:
    """Return the pepper under which all keys of the store were made.

    Raises:
        StartError: It is not given and may not be made, or keys were made under another one, which would all be refused
            as unknown.
    """
    path = settings.data_dir / "key-pepper"
    in_use = await store.pepper_ids()
    given = _given(settings.key_pepper)
    # A pepper made now cannot be the one of keys that exist, and would be in the way of the right file.
    if given is None and in_use and is_sqlite(settings.database) and not path.exists():
        raise StartError(f"the database has keys but {path} is gone; restore it, or set AUTH_KEY_PEPPER")
    pepper = Pepper((given or _made(settings, path, setting="AUTH_KEY_PEPPER")).encode())
    if in_use - {pepper.id}:
        source = "AUTH_KEY_PEPPER" if given else str(path)
        raise StartError(f"the database has keys that were made with another pepper than {source}; restore that one")
    return pepper


def _given(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value().strip() or None if secret else None


def _made(settings: AuthSettings, path: Path, *, setting: str) -> str:
    if not is_sqlite(settings.database):
        raise StartError(f"{setting} is not set; with Postgres it must be given, the same to every replica")
    return secret_file.read_or_create(path)
