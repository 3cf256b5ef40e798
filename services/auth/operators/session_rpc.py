"""gRPC service OperatorSessionService: log-in to the operators' console."""

from services.auth import messages
from services.auth.callers import user_actor
from services.auth.operators.log_in import OperatorLogIn
from services.auth.sessions.manager import SessionManager
from services.common.rpc.types import Context
from stack.auth.v1 import operators_pb2, operators_pb2_grpc


class OperatorSessionService(operators_pb2_grpc.OperatorSessionServiceServicer):
    """Logs operators in."""

    def __init__(self, log_in: OperatorLogIn, sessions: SessionManager) -> None:
        self._log_in = log_in
        self._sessions = sessions

    async def LogInOperator(
        self, request: operators_pb2.LogInOperatorRequest, context: Context
    ) -> operators_pb2.LogInOperatorResponse:
        """Check a password, the role and the existence of TOTP."""
        pending = await self._log_in.start(
            request.email, request.password, device_token=request.device_token, by=user_actor(context)
        )
        return operators_pb2.LogInOperatorResponse(pending_token=pending.token)

    async def CompleteOperatorLogIn(
        self, request: operators_pb2.CompleteOperatorLogInRequest, context: Context
    ) -> operators_pb2.CompleteOperatorLogInResponse:
        """Check a code and open the session."""
        logged_in = await self._log_in.complete(
            request.pending_token,
            request.code,
            replaced_token=request.replaced_token,
            device_token=request.device_token,
            by=user_actor(context),
        )
        return operators_pb2.CompleteOperatorLogInResponse(session=messages.open_session(logged_in))

    async def LogOutOperator(
        self, request: operators_pb2.LogOutOperatorRequest, context: Context
    ) -> operators_pb2.LogOutOperatorResponse:
        """End a session."""
        await self._sessions.log_out(request.token, by=user_actor(context))
        return operators_pb2.LogOutOperatorResponse()
