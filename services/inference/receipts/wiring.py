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
    configured = [text.strip() for text in settings.receipt_keys.get_secret_value().split(",") if text.strip()]
    path = settings.data_dir / _FILE
    if not configured and not is_sqlite(settings.ledger_url):
        return None
    name = "INFERENCE_RECEIPT_KEYS" if configured else str(path)
    try:
        private_keys = [parse_private_key(text) for text in configured or [secret_file.read_or_create(path)]]
    except ValueError as exc:
        raise StartError(f"{name}: {exc}.") from exc
    removed = [text.strip() for text in settings.receipt_keys_removed.split(",") if text.strip()]
    return ReceiptKeys(private_keys, [parse_public_key(text) for text in removed])
