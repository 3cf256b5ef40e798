"""gRPC client of auth: authenticates API keys and watches their changes."""

from collections.abc import AsyncIterator

from grpc import aio

from services.common.rpc.limits import limits_from_proto
from services.common.rpc.status import rpc_errors
from services.gateway.keys.auth_client import Authentication, WatchEvent
from services.gateway.requests.types import CountedKey, Principal
from stack.auth.v1 import auth_pb2, auth_pb2_grpc

_DENIALS = {
    auth_pb2.DENIAL_REASON_UNKNOWN: "unknown",
    auth_pb2.DENIAL_REASON_REVOKED: "revoked",
    auth_pb2.DENIAL_REASON_EXPIRED: "expired",
    auth_pb2.DENIAL_REASON_PAUSED: "paused",
    auth_pb2.DENIAL_REASON_SUSPENDED: "suspended",
}


class GrpcAuthClient:
    """An `AuthClient` over gRPC."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Call over `channel`. One authentication takes at most `timeout_seconds`."""
        self._stub = auth_pb2_grpc.AuthServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def authenticate(self, api_key: str) -> Authentication:
        """Authenticate a key; see `AuthClient.authenticate`."""
        request = auth_pb2.AuthenticateRequest(api_key=api_key)
        with rpc_errors(unavailable_reason="auth_unavailable"):
            response = await self._stub.Authenticate(request, timeout=self._timeout_seconds)
        if response.WhichOneof("outcome") == "principal":
            return Authentication(principal_of(response.principal), "", response.revision)
        denial = response.denial
        key = CountedKey(denial.key_id, denial.quota_account_id) if denial.key_id else None
        return Authentication(None, _DENIALS.get(denial.reason, "unknown"), response.revision, key)

    async def watch(self, after_revision: int | None) -> AsyncIterator[WatchEvent]:
        """Yield changes of keys and heartbeats; see `AuthClient.watch`."""
        call = self._stub.WatchKeys(auth_pb2.WatchKeysRequest(after_revision=after_revision))
        try:
            with rpc_errors(unavailable_reason="auth_unavailable"):
                async for event in call:
                    yield WatchEvent(event.revision, event.changed_key_id, event.is_revoked, event.all_keys_changed)
        finally:
            call.cancel()


def principal_of(principal: auth_pb2.Principal) -> Principal:
    """Return a protobuf principal as the gateway's."""
    expires_at = principal.expires_at.ToNanoseconds() / 1e9 if principal.HasField("expires_at") else None
    return Principal(
        principal.key_id,
        principal.account_id,
        principal.daily_limit,
        expires_at,
        models=tuple(principal.models),
        account_limit=principal.account_daily_limit if principal.HasField("account_daily_limit") else None,
        limits=limits_from_proto(principal.limits),
        weight=principal.weight or 1,
        quota_account_id=principal.quota_account_id,
        key_name=principal.key_name,
        plan=principal.plan,
        deduplicate_retries=principal.deduplicate_retries,
    )
