"""The keys of signed receipts from inference's settings."""

from services.common.db.database import is_sqlite
from services.common.errors import StartError
from services.common.runtime import secret_file
from services.inference.receipts.keys import ReceiptKeys, parse_private_key, parse_public_key
from services.inference.settings import InferenceSettings

_FILE = "receipt-key"


def receipt_keys(settings: InferenceSettings) -> ReceiptKeys | None:
    """Return the keys; None if receipts are not signed: with Postgres, if none is set.

    Raises:
        StartError: A key is invalid, or the file of the key cannot be used.
    """
    texts = receipt_key_texts(settings)
    name = "INFERENCE_RECEIPT_KEYS" if settings.receipt_keys.get_secret_value() else str(settings.data_dir / _FILE)
    try:
        private_keys = [parse_private_key(text) for text in texts]
    except ValueError as exc:
        raise StartError(f"{name}: {exc}.") from exc
    removed = [parse_public_key(text) for text in _parts(settings.receipt_keys_removed)]
    return ReceiptKeys(private_keys, removed) if private_keys else None


def receipt_key_texts(settings: InferenceSettings) -> list[str]:
    """Return the private keys as they are configured, or that of the file with SQLite; none if there are none.

    Raises:
        StartError: The file of the key cannot be used.
    """
    configured = _parts(settings.receipt_keys.get_secret_value())
    if configured or not is_sqlite(settings.ledger_url):
        return configured
    return [secret_file.read_or_create(settings.data_dir / _FILE)]


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
