"""gRPC service AuthService: key verification and the stream of key changes."""

from collections.abc import AsyncIterator

from services.auth import messages
from services.auth.keys.model import Denial, Key
from services.auth.keys.verifier import KeyVerifier
from services.auth.watch.feed import ChangeEvent, ChangeFeed
from services.common.rpc.types import Context
from stack.auth.v1 import auth_pb2, auth_pb2_grpc

_REASONS = {
    Denial.UNKNOWN: auth_pb2.DENIAL_REASON_UNKNOWN,
    Denial.REVOKED: auth_pb2.DENIAL_REASON_REVOKED,
    Denial.EXPIRED: auth_pb2.DENIAL_REASON_EXPIRED,
    Denial.PAUSED: auth_pb2.DENIAL_REASON_PAUSED,
    Denial.SUSPENDED: auth_pb2.DENIAL_REASON_SUSPENDED,
}


class AuthService(auth_pb2_grpc.AuthServiceServicer):
    """Serves key verification and key changes to gateways."""

    def __init__(self, key_verifier: KeyVerifier, feed: ChangeFeed) -> None:
        self._key_verifier = key_verifier
        self._feed = feed

    async def Authenticate(
        self, request: auth_pb2.AuthenticateRequest, context: Context
    ) -> auth_pb2.AuthenticateResponse:
        """Return the principal of an API key, or why the key is denied."""
        verification = await self._key_verifier.authenticate(request.api_key)
        if isinstance(verification.outcome, Denial):
            denial = _denial(verification.outcome, verification.denied_key)
            return auth_pb2.AuthenticateResponse(denial=denial, revision=verification.revision)
        return auth_pb2.AuthenticateResponse(
            principal=messages.principal(verification.outcome), revision=verification.revision
        )

    async def WatchKeys(
        self, request: auth_pb2.WatchKeysRequest, context: Context
    ) -> AsyncIterator[auth_pb2.WatchKeysResponse]:
        """Stream key changes and heartbeats."""
        after_revision = request.after_revision if request.HasField("after_revision") else None
        async for event in self._feed.watch(after_revision):
            yield _watch_event(event)


def _denial(denial: Denial, key: Key | None) -> auth_pb2.Denial:
    if key is None:
        return auth_pb2.Denial(reason=_REASONS[denial])
    account_id = key.quota_account_id or key.account_id
    return auth_pb2.Denial(reason=_REASONS[denial], key_id=key.id, quota_account_id=account_id)


def _watch_event(event: ChangeEvent) -> auth_pb2.WatchKeysResponse:
    if event.change is None:
        return auth_pb2.WatchKeysResponse(revision=event.revision)
    return auth_pb2.WatchKeysResponse(
        revision=event.revision,
        changed_key_id=event.change.key_id or "",
        is_revoked=event.change.is_revoked,
        all_keys_changed=event.change.key_id is None,
    )
