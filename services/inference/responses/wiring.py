"""The store of responses from inference's settings."""

from contextlib import AsyncExitStack

from services.common.db.database import is_sqlite
from services.common.errors import StartError
from services.common.runtime import secret_file
from services.common.runtime.clock import SystemClock
from services.inference.responses.encryption import Cipher
from services.inference.responses.store import Limits, RedisResponseStore, connect
from services.inference.settings import InferenceSettings

_SECRET_CHARACTERS_MIN = 16
_DELETED_MARGIN_SECONDS = 60.0


def open_store(settings: InferenceSettings, stack: AsyncExitStack) -> RedisResponseStore | None:
    """Return a store that `stack` closes; None if responses are not stored. Redis need not be reachable yet.

    Raises:
        StartError: The secret is missing and cannot be generated, or one is too short.
    """
    if not settings.responses_redis:
        return None
    client = connect(settings.responses_redis)
    stack.push_async_callback(client.aclose)
    limits = Limits(
        seconds=settings.responses_seconds,
        responses=settings.responses_per_account_max,
        size_bytes=settings.responses_bytes_per_account_max,
        deleted_seconds=settings.request_timeout_seconds + _DELETED_MARGIN_SECONDS,
    )
    return RedisResponseStore(client, Cipher(_secrets(settings)), limits, SystemClock())


def _secrets(settings: InferenceSettings) -> list[str]:
    configured = settings.responses_secrets.get_secret_value().split(",")
    secrets = [secret.strip() for secret in configured if secret.strip()]
    if not secrets and not is_sqlite(settings.ledger_url):
        raise StartError(
            "INFERENCE_RESPONSES_SECRETS is not set, and storing responses requires it with Postgres. Set it to the "
            "same value on every replica; generate a secret with `openssl rand -hex 32`."
        )
    if any(len(secret) < _SECRET_CHARACTERS_MIN for secret in secrets):
        raise StartError(
            f"INFERENCE_RESPONSES_SECRETS has a secret of less than {_SECRET_CHARACTERS_MIN} characters. Generate one "
            "with `openssl rand -hex 32`."
        )
    return secrets or [secret_file.read_or_create(settings.data_dir / "responses-secret")]
