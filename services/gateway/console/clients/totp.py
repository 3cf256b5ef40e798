"""gRPC client for auth's RPCs of the second factor."""

from collections.abc import Sequence

from grpc import aio

from services.common.rpc.status import rpc_errors
from services.gateway.console.clients.auth import from_address, open_session_of, owner_metadata
from services.gateway.console.ports import OpenSession
from services.gateway.console.totp_ports import TOTPSecret, TOTPState
from stack.auth.v1 import totp_pb2, totp_pb2_grpc


class GrpcTOTPClient:
    """A `TOTPClient` over auth's TOTPService."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Use `channel`, with a timeout of `timeout_seconds` per call."""
        self._stub = totp_pb2_grpc.TOTPServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def complete(
        self, pending_token: str, code: str, *, replaced_token: str, device_token: str, address: str
    ) -> OpenSession:
        """Create the session of a pending log-in."""
        request = totp_pb2.CompleteLogInRequest(
            pending_token=pending_token, code=code, replaced_token=replaced_token, device_token=device_token
        )
        with rpc_errors(unavailable_reason="auth_unavailable"):
            answer = await self._stub.CompleteLogIn(
                request, metadata=from_address(address), timeout=self._timeout_seconds
            )
        return open_session_of(answer.session)

    async def state(self, token: str) -> TOTPState:
        """Return whether the account has a second factor."""
        with rpc_errors(unavailable_reason="auth_unavailable"):
            answer = await self._stub.GetOwnTOTP(
                totp_pb2.GetOwnTOTPRequest(), metadata=owner_metadata(token), timeout=self._timeout_seconds
            )
        return TOTPState(answer.enabled, answer.recovery_codes)

    async def enrol(self, token: str, password: str, *, address: str) -> TOTPSecret:
        """Create a secret."""
        request = totp_pb2.EnrolOwnTOTPRequest(password=password)
        with rpc_errors(unavailable_reason="auth_unavailable"):
            answer = await self._stub.EnrolOwnTOTP(
                request, metadata=owner_metadata(token, address), timeout=self._timeout_seconds
            )
        return TOTPSecret(answer.secret, answer.url)

    async def enable(self, token: str, code: str, *, address: str) -> Sequence[str]:
        """Put the secret into force."""
        request = totp_pb2.EnableOwnTOTPRequest(code=code)
        with rpc_errors(unavailable_reason="auth_unavailable"):
            answer = await self._stub.EnableOwnTOTP(
                request, metadata=owner_metadata(token, address), timeout=self._timeout_seconds
            )
        return answer.recovery_codes

    async def disable(self, token: str, password: str, code: str, *, address: str) -> None:
        """Remove the second factor."""
        request = totp_pb2.DisableOwnTOTPRequest(password=password, code=code)
        with rpc_errors(unavailable_reason="auth_unavailable"):
            await self._stub.DisableOwnTOTP(
                request, metadata=owner_metadata(token, address), timeout=self._timeout_seconds
            )

    async def replace_recovery_codes(self, token: str, password: str, code: str, *, address: str) -> Sequence[str]:
        """Return new recovery codes."""
        request = totp_pb2.ReplaceRecoveryCodesRequest(password=password, code=code)
        with rpc_errors(unavailable_reason="auth_unavailable"):
            answer = await self._stub.ReplaceRecoveryCodes(
                request, metadata=owner_metadata(token, address), timeout=self._timeout_seconds
            )
        return answer.recovery_codes
