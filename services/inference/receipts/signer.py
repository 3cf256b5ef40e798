"""Signs the receipts of ledger rows."""

from typing import Protocol

import msgspec

from services.common.errors import ErrorDetails, NotFound
from services.common.prices import dollars
from services.common.receipts import Receipt, ReceiptUsage, iso_time
from services.common.runtime.clock import Clock
from services.inference.ledger.writer import LedgerRow
from services.inference.receipts.keys import ReceiptKeys

_UNSIGNED = "receipts_unsigned"
_DISABLED = "The receipts of this service are not signed. Ask its operator to set INFERENCE_RECEIPT_KEYS."


class Rows(Protocol):
    """Port to the ledger."""

    async def find(self, request_id: str) -> LedgerRow | None:
        """Return a row, or None if there is none."""


class ReceiptSigner:
    """Signs receipts. What is signed comes from the ledger only, so that a caller cannot make up a receipt."""

    def __init__(self, rows: Rows, keys: ReceiptKeys | None, clock: Clock) -> None:
        """Sign receipts of `rows` with `keys`; None means that receipts are not signed."""
        self._rows = rows
        self._keys = keys
        self._clock = clock

    @property
    def key_set(self) -> bytes:
        """The public keys of receipts, as a JWK Set.

        Raises:
            NotFound: Receipts are not signed.
        """
        return self._enabled().key_set

    async def sign(self, request_id: str, *, account_id: str) -> str:
        """Return the receipt of an account's request, as a JWS in compact serialization.

        Raises:
            NotFound: Receipts are not signed (`receipts_unsigned`), or the account has no such request.
            Unavailable: The ledger cannot be read.
        """
        keys = self._enabled()
        row = await self._rows.find(request_id)
        if row is None or row.account_id != account_id:
            raise NotFound(f"Request {request_id!r} is not in the ledger of this account. Check the id.")
        members = msgspec.to_builtins(receipt_of(row)) | {"signed_at": iso_time(self._clock.now())}
        return keys.sign(msgspec.json.encode(members))

    def _enabled(self) -> ReceiptKeys:
        if self._keys is None:
            raise NotFound(_DISABLED, reason=_UNSIGNED, details=ErrorDetails(code=_UNSIGNED))
        return self._keys


def receipt_of(row: LedgerRow) -> Receipt:
    """Return the public part of a ledger row."""
    usage = row.usage
    return Receipt(
        id=row.request_id,
        key_id=row.key_id,
        day=row.day,
        created_at=iso_time(row.reserved_at),
        model=row.model,
        upstream_model=row.upstream_model if row.attempts else None,
        surface=row.surface,
        stream=row.stream,
        outcome=row.outcome.value,
        charged=row.charged,
        refund_reason=row.refund_reason or None,
        slot=row.slot,
        usage=ReceiptUsage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.total_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            source=usage.source.value,
        ),
        cost_microdollars=row.cost,
        cost_usd=None if row.cost is None else dollars(row.cost),
        attempts=row.attempts,
        time_to_first_token_ms=row.time_to_first_token_ms or None,
        duration_ms=row.duration_ms,
        queue_ms=row.queue_ms,
    )
