"""AuthService: what gateways ask for every request."""

from collections.abc import AsyncIterator
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from services.auth.changes import ChangeFeed
from services.auth.keys import Denial, Gatekeeper, Key
from services.common.rpc import Context
from stack.auth.v1 import auth_pb2, auth_pb2_grpc

_REASONS = {
    Denial.UNKNOWN: auth_pb2.DENIAL_REASON_UNKNOWN,
    Denial.REVOKED: auth_pb2.DENIAL_REASON_REVOKED,
    Denial.EXPIRED: auth_pb2.DENIAL_REASON_EXPIRED,
}


class AuthService(auth_pb2_grpc.AuthServiceServicer):
    """Translates between the contract and the gatekeeper."""

    def __init__(self, gatekeeper: Gatekeeper, feed: ChangeFeed) -> None:
        self._gatekeeper = gatekeeper
        self._feed = feed

    async def Authenticate(
        self, request: auth_pb2.AuthenticateRequest, context: Context
    ) -> auth_pb2.AuthenticateResponse:
        """Say whose API key this is."""
        verdict = await self._gatekeeper.authenticate(request.api_key)
        if isinstance(verdict.outcome, Denial):
            denial = auth_pb2.Denial(reason=_REASONS[verdict.outcome])
            return auth_pb2.AuthenticateResponse(denial=denial, revision=verdict.revision)
        return auth_pb2.AuthenticateResponse(principal=_principal(verdict.outcome), revision=verdict.revision)

    async def WatchKeys(
        self, request: auth_pb2.WatchKeysRequest, context: Context
    ) -> AsyncIterator[auth_pb2.WatchKeysResponse]:
        """Stream changes of keys, and heartbeats."""
        after_revision = request.after_revision if request.HasField("after_revision") else None
        async for event in self._feed.watch(after_revision):
            yield auth_pb2.WatchKeysResponse(revision=event.revision, changed_key_id=event.key_id or "")


def _principal(key: Key) -> auth_pb2.Principal:
    return auth_pb2.Principal(
        key_id=key.id,
        account_id=key.account_id,
        daily_limit=key.daily_limit,
        expires_at=timestamp(key.expires_at),
    )


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Return an aware time as the contract writes it; None stays absent."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message
