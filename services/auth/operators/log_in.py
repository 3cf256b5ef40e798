"""Log-in of operators: the password and a code, always both."""

from services.auth.accounts.model import Account, AccountId, AccountStore
from services.auth.audit import Actor
from services.auth.operators.model import not_operator, totp_required
from services.auth.sessions.log_in import LoggedIn, LogIn
from services.auth.sessions.manager import SessionManager
from services.auth.sessions.model import session_ended
from services.auth.totp.manager import TOTPManager
from services.auth.totp.pending import PendingLogIn, PendingLogIns


class OperatorLogIn:
    """Opens sessions of the operators' console."""

    def __init__(
        self,
        log_in: LogIn,
        accounts: AccountStore,
        sessions: SessionManager,
        *,
        totp: TOTPManager,
        pending: PendingLogIns,
    ) -> None:
        """Create a log-in.

        Args:
            log_in: Checks passwords and codes, within its limits.
            accounts: The accounts, with their roles.
            sessions: The sessions of operators.
            totp: The TOTP of accounts.
            pending: Log-ins to the operators' console that need a code. Those of users' are none.
        """
        self._log_in = log_in
        self._accounts = accounts
        self._sessions = sessions
        self._totp = totp
        self._pending = pending

    async def start(self, email: str, password: str, *, device_token: str, by: Actor) -> PendingLogIn:
        """Check a password, the role and the existence of TOTP.

        Raises:
            Unauthenticated: The e-mail or the password is wrong.
            PermissionDenied: Both are correct, but the account does not have the role. It cannot be suspended.
            FailedPrecondition: The account has no TOTP, or its e-mail is not verified yet.
            Throttled: There were too many attempts.
        """
        proof = await self._log_in.prove_password(email, password, device_token=device_token, by=by)
        await self._require_role(proof.account_id)
        if not await self._totp.enabled_id(proof.account_id):
            raise totp_required()
        return self._pending.start(proof, proof.password_hash)

    async def complete(
        self, pending_token: str, code: str, *, replaced_token: str, device_token: str, by: Actor
    ) -> LoggedIn:
        """Check a code and open the session.

        Raises:
            Unauthenticated: The pending log-in has expired or was not started here, or the password has changed since.
            PermissionDenied: The code is wrong or was used, or the role was taken away.
            Throttled: There were too many attempts.
        """
        proof = await self._log_in.prove_code(self._pending, pending_token, code, device_token=device_token, by=by)
        account = await self._require_role(proof.account_id)
        opened = await self._sessions.open(proof, by=by, replaced_token=replaced_token)
        return LoggedIn(opened, self._log_in.device_token(account))

    async def _require_role(self, account_id: AccountId) -> Account:
        """Return the account. Its role is checked again in the transaction that opens the session."""
        credentials = await self._accounts.credentials(account_id)
        if credentials is None:
            raise session_ended()
        account = credentials.account
        if account.operator_since is None:
            raise not_operator()
        return account
