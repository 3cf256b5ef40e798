"""gRPC service TOTPService: the second step of log-ins, and the owner's TOTP."""

from services.auth import messages
from services.auth.accounts.model import Proof
from services.auth.audit import Actor
from services.auth.callers import SessionAuthenticator, user_actor
from services.auth.sessions.log_in import LogIn
from services.auth.sessions.manager import SessionManager
from services.auth.sessions.model import Session
from services.auth.totp.manager import TOTPManager
from services.common.rpc.types import Context
from stack.auth.v1 import totp_pb2, totp_pb2_grpc


class TOTPService(totp_pb2_grpc.TOTPServiceServicer):
    """Serves the second factor to gateways."""

    def __init__(self, totp: TOTPManager, log_in: LogIn, sessions: SessionManager) -> None:
        self._totp = totp
        self._log_in = log_in
        self._authenticator = SessionAuthenticator(sessions)

    async def CompleteLogIn(
        self, request: totp_pb2.CompleteLogInRequest, context: Context
    ) -> totp_pb2.CompleteLogInResponse:
        """Check a code and open the session of a pending log-in."""
        logged_in = await self._log_in.complete(
            request.pending_token,
            request.code,
            replaced_token=request.replaced_token,
            device_token=request.device_token,
            by=user_actor(context),
        )
        return totp_pb2.CompleteLogInResponse(session=messages.open_session(logged_in))

    async def GetOwnTOTP(self, request: totp_pb2.GetOwnTOTPRequest, context: Context) -> totp_pb2.GetOwnTOTPResponse:
        """Return whether the account has TOTP."""
        session = await self._authenticator.require(context)
        return totp_pb2.GetOwnTOTPResponse(
            enabled=bool(await self._totp.enabled_id(session.account.id)),
            recovery_codes=await self._totp.recovery_codes(session.account.id),
        )

    async def EnrolOwnTOTP(
        self, request: totp_pb2.EnrolOwnTOTPRequest, context: Context
    ) -> totp_pb2.EnrolOwnTOTPResponse:
        """Return a new secret, which is not in force yet."""
        session = await self._authenticator.require(context)
        proof = await self._log_in.prove(session, request.password, by=user_actor(context))
        secret, url = await self._totp.enrol(session, proof)
        return totp_pb2.EnrolOwnTOTPResponse(secret=secret.text, url=url)

    async def EnableOwnTOTP(
        self, request: totp_pb2.EnableOwnTOTPRequest, context: Context
    ) -> totp_pb2.EnableOwnTOTPResponse:
        """Put the secret into force."""
        session = await self._authenticator.require(context)
        codes = await self._totp.enable(session, request.code, by=user_actor(context))
        return totp_pb2.EnableOwnTOTPResponse(recovery_codes=codes)

    async def DisableOwnTOTP(
        self, request: totp_pb2.DisableOwnTOTPRequest, context: Context
    ) -> totp_pb2.DisableOwnTOTPResponse:
        """Remove the secret and the recovery codes."""
        session, by = await self._authenticator.require(context), user_actor(context)
        proof = await self._prove(session, request.password, request.code, by)
        await self._totp.disable(proof, by=by)
        return totp_pb2.DisableOwnTOTPResponse()

    async def ReplaceRecoveryCodes(
        self, request: totp_pb2.ReplaceRecoveryCodesRequest, context: Context
    ) -> totp_pb2.ReplaceRecoveryCodesResponse:
        """Return new recovery codes."""
        session, by = await self._authenticator.require(context), user_actor(context)
        proof = await self._prove(session, request.password, request.code, by)
        codes = await self._totp.replace_recovery_codes(proof, by=by)
        return totp_pb2.ReplaceRecoveryCodesResponse(recovery_codes=codes)

    async def _prove(self, session: Session, password: str, code: str, by: Actor) -> Proof:
        """Check the password and a code, in this order, and return a proof of both."""
        proof = await self._log_in.prove(session, password, by=by)
        await self._totp.check(session.account.id, code, limit_key=session.id, password_hash=proof.password_hash, by=by)
        return proof
