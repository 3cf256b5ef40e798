"""gRPC servicer of idempotency keys."""

import re
from dataclasses import replace

from services.common.errors import InvalidRequest
from services.common.rpc.types import Context
from services.inference.idempotency.model import Claim, Claimant, ClaimedKey, IdempotencyKeys, State, enabled
from stack.inference.v1 import idempotency_pb2, idempotency_pb2_grpc

_DIGEST_BYTES = 32
_ID = re.compile(r"[0-9A-Za-z_]{1,64}")
_STATES = {
    State.CLAIMED: idempotency_pb2.CLAIM_STATE_CLAIMED,
    State.DISABLED: idempotency_pb2.CLAIM_STATE_DISABLED,
    State.RUNNING: idempotency_pb2.CLAIM_STATE_RUNNING,
    State.MISMATCHED: idempotency_pb2.CLAIM_STATE_MISMATCHED,
    State.COMPLETED: idempotency_pb2.CLAIM_STATE_COMPLETED,
    State.GONE: idempotency_pb2.CLAIM_STATE_GONE,
}


class IdempotencyService(idempotency_pb2_grpc.IdempotencyServiceServicer):
    """Claims idempotency keys, and keeps the answers of their requests."""

    def __init__(self, keys: IdempotencyKeys | None) -> None:
        """Use `keys`; None means that they are ignored."""
        self._keys = keys

    async def Claim(self, request: idempotency_pb2.ClaimRequest, context: Context) -> idempotency_pb2.ClaimResponse:
        """Claim a key."""
        key = _checked(request.key, request.request_id)
        _check_id("key_id", request.key_id)
        _check_digest("fingerprint", request.fingerprint)
        claimant = Claimant(request.request_id, request.key_id, request.fingerprint)
        claim = Claim(State.DISABLED) if self._keys is None else await self._keys.claim(key, claimant)
        return idempotency_pb2.ClaimResponse(
            state=_STATES[claim.state], request_id=claim.request_id, content=claim.content
        )

    async def ClaimImplicit(
        self, request: idempotency_pb2.ClaimImplicitRequest, context: Context
    ) -> idempotency_pb2.ClaimImplicitResponse:
        """Claim an implicit key."""
        key = replace(_checked(request.key, request.request_id), is_implicit=True)
        _check_id("key_id", request.key_id)
        _check_digest("fingerprint", request.fingerprint)
        claimant = Claimant(request.request_id, request.key_id, request.fingerprint, replaces=request.replaces)
        claim = Claim(State.DISABLED) if self._keys is None else await self._keys.claim(key, claimant)
        return idempotency_pb2.ClaimImplicitResponse(
            state=_STATES[claim.state], request_id=claim.request_id, content=claim.content
        )

    async def Rename(self, request: idempotency_pb2.RenameRequest, context: Context) -> idempotency_pb2.RenameResponse:
        """Change the id of the request that has claimed a key."""
        _check_id("new_request_id", request.new_request_id)
        key = _checked(request.key, request.request_id)
        await enabled(self._keys).rename(key, request.request_id, request.new_request_id)
        return idempotency_pb2.RenameResponse()

    async def Complete(
        self, request: idempotency_pb2.CompleteRequest, context: Context
    ) -> idempotency_pb2.CompleteResponse:
        """End a request."""
        key = _checked(request.key, request.request_id)
        await enabled(self._keys).complete(key, request.request_id, request.content)
        return idempotency_pb2.CompleteResponse()

    async def Release(
        self, request: idempotency_pb2.ReleaseRequest, context: Context
    ) -> idempotency_pb2.ReleaseResponse:
        """Free a key."""
        await enabled(self._keys).release(_checked(request.key, request.request_id), request.request_id)
        return idempotency_pb2.ReleaseResponse()


def _checked(key: idempotency_pb2.IdempotencyKey, request_id: str) -> ClaimedKey:
    """Return a key of a valid call.

    Raises:
        InvalidRequest: An id or the digest is invalid.
    """
    _check_id("key.account_id", key.account_id)
    _check_id("request_id", request_id)
    _check_digest("key.digest", key.digest)
    return ClaimedKey(key.account_id, key.digest, is_implicit=key.is_implicit)


def _check_digest(field: str, digest: bytes) -> None:
    if len(digest) != _DIGEST_BYTES:
        raise InvalidRequest(f"{field}: expected {_DIGEST_BYTES} bytes, got {len(digest)}")


def _check_id(field: str, text: str) -> None:
    if not _ID.fullmatch(text):
        raise InvalidRequest(f"{field}: expected an id of letters, digits and underscores")
