"""gRPC client of auth's OperatorSessionService: log-ins of operators."""

from grpc import aio

from services.common.errors import Unauthenticated
from services.common.rpc.status import rpc_errors
from services.operator_console.clients.messages import open_session_of, session_of
from services.operator_console.model import OpenSession, Session
from stack.auth.v1 import operators_pb2, operators_pb2_grpc

Metadata = tuple[tuple[str, str], ...]


class SessionClient:
    """Logs operators in and out."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Call over `channel`, with a timeout of `timeout_seconds` per call."""
        self._stub = operators_pb2_grpc.OperatorSessionServiceStub(channel)
        self._operators = operators_pb2_grpc.OperatorServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def log_in(self, email: str, password: str, *, device_token: str, address: str) -> str:
        """Check a password, and return the token of a pending log-in."""
        request = operators_pb2.LogInOperatorRequest(email=email, password=password, device_token=device_token)
        with rpc_errors(unavailable_reason="auth_unavailable"):
            answer = await self._stub.LogInOperator(
                request, metadata=metadata_of("", address), timeout=self._timeout_seconds
            )
        return answer.pending_token

    async def complete(
        self, pending_token: str, code: str, *, replaced_token: str, device_token: str, address: str
    ) -> OpenSession:
        """Check a code, and return the new session."""
        request = operators_pb2.CompleteOperatorLogInRequest(
            pending_token=pending_token, code=code, replaced_token=replaced_token, device_token=device_token
        )
        with rpc_errors(unavailable_reason="auth_unavailable"):
            answer = await self._stub.CompleteOperatorLogIn(
                request, metadata=metadata_of("", address), timeout=self._timeout_seconds
            )
        return open_session_of(answer.session)

    async def log_out(self, token: str, *, address: str) -> None:
        """End a session."""
        request = operators_pb2.LogOutOperatorRequest(token=token)
        with rpc_errors(unavailable_reason="auth_unavailable"):
            await self._stub.LogOutOperator(request, metadata=metadata_of("", address), timeout=self._timeout_seconds)

    async def session(self, token: str) -> Session | None:
        """Return the session of a token; None if it is not, or no longer, that of an operator."""
        request = operators_pb2.GetOwnOperatorRequest()
        try:
            with rpc_errors(unavailable_reason="auth_unavailable"):
                answer = await self._operators.GetOwnOperator(
                    request, metadata=metadata_of(token), timeout=self._timeout_seconds
                )
        except Unauthenticated:
            return None
        return session_of(answer.session)


def metadata_of(token: str, address: str = "") -> Metadata:
    """Return the metadata of a call: the session's token, and the address of the operator's browser."""
    by = (("authorization", f"Bearer {token}"),) if token else ()
    return (*by, *((("stack-client-address", address),) if address else ()))
