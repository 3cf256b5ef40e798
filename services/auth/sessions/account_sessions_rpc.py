"""gRPC service AccountSessionService: operators list and end the sessions of an account."""

from services.auth import messages
from services.auth.accounts.model import AccountStore, checked_reference
from services.auth.callers import AdminToken
from services.auth.sessions.manager import SessionManager
from services.common.rpc.types import Context
from stack.auth.v1 import account_sessions_pb2, account_sessions_pb2_grpc


class AccountSessionService(account_sessions_pb2_grpc.AccountSessionServiceServicer):
    """Lists and ends sessions for operators."""

    def __init__(self, accounts: AccountStore, sessions: SessionManager, *, admin_token: AdminToken) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._admin_token = admin_token

    async def ListSessions(
        self, request: account_sessions_pb2.ListSessionsRequest, context: Context
    ) -> account_sessions_pb2.ListSessionsResponse:
        """Return the open sessions of an account."""
        self._admin_token.require(context)
        account = await self._accounts.get(checked_reference(request.account))
        listed = await self._sessions.of_account(account.id)
        return account_sessions_pb2.ListSessionsResponse(sessions=[messages.session(one) for one in listed])

    async def EndSessions(
        self, request: account_sessions_pb2.EndSessionsRequest, context: Context
    ) -> account_sessions_pb2.EndSessionsResponse:
        """End one session of an account, or all."""
        operator = self._admin_token.require(context)
        session_id = messages.session_id(request.session_id) if request.session_id else None
        account = await self._accounts.get(checked_reference(request.account))
        count = await self._sessions.end(session_id, owner=account.id, by=operator)
        return account_sessions_pb2.EndSessionsResponse(count=count)
