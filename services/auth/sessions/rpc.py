"""gRPC service SessionService: sign-up, log-in, e-mail verification and password resets."""

from services.auth import messages
from services.auth.accounts.registration import Registration, SignUpPolicy
from services.auth.callers import user_actor
from services.auth.sessions.log_in import LogIn
from services.auth.sessions.manager import SessionManager
from services.auth.totp.pending import PendingLogIn
from services.common.rpc.types import Context
from stack.auth.v1 import sessions_pb2, sessions_pb2_grpc

_POLICIES = {
    SignUpPolicy.OPEN: sessions_pb2.SIGN_UP_POLICY_OPEN,
    SignUpPolicy.INVITE: sessions_pb2.SIGN_UP_POLICY_INVITE,
    SignUpPolicy.CLOSED: sessions_pb2.SIGN_UP_POLICY_CLOSED,
}


class SessionService(sessions_pb2_grpc.SessionServiceServicer):
    """Serves sign-up, log-in and sessions to gateways."""

    def __init__(self, registration: Registration, log_in: LogIn, sessions: SessionManager) -> None:
        self._registration = registration
        self._log_in = log_in
        self._sessions = sessions

    async def DescribeSignUp(
        self, request: sessions_pb2.DescribeSignUpRequest, context: Context
    ) -> sessions_pb2.DescribeSignUpResponse:
        """Return the sign-up policy, whether mail is configured, and the daily limit of a new account's plan."""
        plan = await self._registration.plan(request.invite)
        return sessions_pb2.DescribeSignUpResponse(
            policy=_POLICIES[self._registration.policy],
            has_mail=self._registration.has_mail,
            daily_limit=plan.daily_limit,
        )

    async def SignUp(self, request: sessions_pb2.SignUpRequest, context: Context) -> sessions_pb2.SignUpResponse:
        """Create an account. If mail is not configured, also open its first session."""
        by = user_actor(context)
        proof = await self._registration.sign_up(request.email, request.password, invite=request.invite, by=by)
        if proof is None:
            return sessions_pb2.SignUpResponse()
        logged_in = await self._log_in.open(proof, by=by)
        return sessions_pb2.SignUpResponse(session=messages.open_session(logged_in))

    async def LogIn(self, request: sessions_pb2.LogInRequest, context: Context) -> sessions_pb2.LogInResponse:
        """Check a password and open a session."""
        logged_in = await self._log_in.log_in(
            request.email,
            request.password,
            replaced_token=request.replaced_token,
            device_token=request.device_token,
            by=user_actor(context),
        )
        if isinstance(logged_in, PendingLogIn):
            return sessions_pb2.LogInResponse(pending_token=logged_in.token)
        return sessions_pb2.LogInResponse(session=messages.open_session(logged_in))

    async def LogOut(self, request: sessions_pb2.LogOutRequest, context: Context) -> sessions_pb2.LogOutResponse:
        """End a session."""
        await self._sessions.log_out(request.token, by=user_actor(context))
        return sessions_pb2.LogOutResponse()

    async def GetSession(
        self, request: sessions_pb2.GetSessionRequest, context: Context
    ) -> sessions_pb2.GetSessionResponse:
        """Return the session of a token."""
        session = await self._sessions.get(request.token, is_check=request.is_check)
        return sessions_pb2.GetSessionResponse(session=messages.session(session, current_id=session.id))

    async def VerifyEmail(
        self, request: sessions_pb2.VerifyEmailRequest, context: Context
    ) -> sessions_pb2.VerifyEmailResponse:
        """Verify an e-mail address with the token that was sent to it."""
        email = await self._registration.verify_email(request.token, by=user_actor(context))
        return sessions_pb2.VerifyEmailResponse(email=email)

    async def SendVerification(
        self, request: sessions_pb2.SendVerificationRequest, context: Context
    ) -> sessions_pb2.SendVerificationResponse:
        """Send another verification e-mail."""
        await self._registration.send_verification(request.email, by=user_actor(context))
        return sessions_pb2.SendVerificationResponse()

    async def SendPasswordReset(
        self, request: sessions_pb2.SendPasswordResetRequest, context: Context
    ) -> sessions_pb2.SendPasswordResetResponse:
        """Send a password reset e-mail."""
        await self._registration.send_password_reset(request.email, by=user_actor(context))
        return sessions_pb2.SendPasswordResetResponse()

    async def ResetPassword(
        self, request: sessions_pb2.ResetPasswordRequest, context: Context
    ) -> sessions_pb2.ResetPasswordResponse:
        """Set a new password with a token."""
        account = await self._registration.reset_password(request.token, request.password, by=user_actor(context))
        device_token = self._log_in.device_token(account)
        return sessions_pb2.ResetPasswordResponse(email=account.email, device_token=device_token)
