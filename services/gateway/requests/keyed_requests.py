"""Requests with an idempotency key: that of their header, or an implicit one."""

import hashlib

from starlette.types import Scope

from services.common.errors import ErrorDetails, InvalidRequest
from services.gateway.requests.claimed_key import ClaimedKey
from services.gateway.requests.idempotency_types import HEADER, IdempotencyKey
from services.gateway.requests.surface import Parse, SurfaceRequest
from services.gateway.requests.types import Principal

_CHARACTERS_MAX = 255
_RETRY_COUNT = b"x-stainless-retry-count"
"""How often an SDK that Stainless generates, such as OpenAI's and Anthropic's, has sent a request before."""


class KeyedRequest:
    """A request with an `Idempotency-Key` header.

    Attributes:
        fingerprint: SHA-256 of its path and body; empty before the body is read.
        claim: The claim of its key; None while it has none, and if keys are not supported.
        replaces: Whether it claims its key even if an earlier request has claimed it.
    """

    replaces = False

    def __init__(self, scope: Scope, values: list[bytes]) -> None:
        self.scope = scope
        self._values = values
        self.fingerprint = b""
        self.claim: ClaimedKey | None = None

    def reading(self, parse: Parse) -> Parse:
        """Return a parser that also checks the header and takes the fingerprint of the body."""

        async def read(body: bytes, principal: Principal) -> SurfaceRequest:
            self._check()
            self.fingerprint = _digest(self.scope["path"].encode(), body)
            return await parse(body, principal)

        return read

    def key(self, principal: Principal) -> IdempotencyKey:
        """Return the idempotency key. Those of other API keys are different, even if their headers are equal."""
        digest = _digest(principal.key_id.encode(), self._values[0])
        return IdempotencyKey(principal.account_id, principal.key_id, digest)

    def _check(self) -> None:
        value = self._values[0]
        is_valid = 1 <= len(value) <= _CHARACTERS_MAX and all(0x20 <= byte < 0x7F for byte in value)
        if len(self._values) != 1 or not is_valid:
            raise InvalidRequest(
                f"Invalid Idempotency-Key header. Send it once, with 1 to {_CHARACTERS_MAX} printable ASCII "
                "characters, such as a UUID.",
                details=ErrorDetails(param="Idempotency-Key", code="invalid_idempotency_key"),
            )


def keyed_request(scope: Scope) -> KeyedRequest | None:
    """Return a request with an `Idempotency-Key` header; None if it has none."""
    for name, _ in scope["headers"]:
        if name == HEADER:
            return KeyedRequest(scope, [value for name, value in scope["headers"] if name == HEADER])
    return None


class ImplicitlyKeyedRequest(KeyedRequest):
    """A request without the header, whose API key deduplicates the automatic retries of SDKs.

    Its implicit key is a digest of its path and body. A first request always runs, and claims the key from an earlier
    identical one. An automatic retry finds the claim of the last first request.
    """

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope, [])
        self.replaces = not _is_retry(scope)

    def key(self, principal: Principal) -> IdempotencyKey:
        """Return the implicit key, which is never an explicit one."""
        digest = _digest(b"implicit", principal.key_id.encode(), self.fingerprint)
        return IdempotencyKey(principal.account_id, principal.key_id, digest, is_implicit=True)

    def _check(self) -> None:
        """There is no header to check."""


def _is_retry(scope: Scope) -> bool:
    """Return whether an SDK has sent the request before. An invalid count is ignored."""
    counts = [value for name, value in scope["headers"] if name == _RETRY_COUNT]
    return len(counts) == 1 and counts[0].isdigit() and bool(counts[0].strip(b"0"))


def _digest(*parts: bytes) -> bytes:
    """Return a digest of parts, of which only the last one may contain NUL."""
    return hashlib.sha256(b"\0".join(parts)).digest()
