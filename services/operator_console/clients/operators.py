"""gRPC client of auth's OperatorService. Every call carries the token of the operator's session."""

from collections.abc import Collection, Sequence
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from grpc import aio

from services.common.rpc.status import rpc_errors
from services.operator_console.clients import messages
from services.operator_console.clients.sessions import metadata_of
from services.operator_console.model import (
    Account,
    AccountDetails,
    AccountSearch,
    AuditPage,
    AuditSearch,
    Invite,
    Plan,
)
from stack.auth.v1 import operators_pb2, operators_pb2_grpc, plans_pb2

_STATES = {
    "": operators_pb2.ACCOUNT_STATE_UNSPECIFIED,
    "active": operators_pb2.ACCOUNT_STATE_ACTIVE,
    "suspended": operators_pb2.ACCOUNT_STATE_SUSPENDED,
    "deleted": operators_pb2.ACCOUNT_STATE_DELETED,
}


class OperatorClient:
    """What one operator does in auth."""

    def __init__(self, channel: aio.Channel, token: str, *, address: str, timeout_seconds: float) -> None:
        """Call over `channel` with the session of `token`, for a browser at `address`."""
        self._stub = operators_pb2_grpc.OperatorServiceStub(channel)
        self._metadata = metadata_of(token, address)
        self._timeout_seconds = timeout_seconds

    async def accounts(self, wanted: AccountSearch, *, limit: int) -> Sequence[Account]:
        """Return accounts, newest first."""
        request = operators_pb2.SearchAccountsRequest(
            text=wanted.text,
            plan=wanted.plan,
            state=_STATES[wanted.state],
            page_size=limit,
            before=wanted.before,
            ids=wanted.ids,
        )
        answer = await self._call(self._stub.SearchAccounts, request)
        return [messages.account_of(one) for one in answer.accounts]

    async def emails(self, ids: Collection[str]) -> dict[str, str]:
        """Return the addresses of accounts by id; deleted and unknown accounts are left out."""
        if not ids:
            return {}
        found = await self.accounts(AccountSearch(ids=sorted(ids)), limit=len(ids))
        return {account.id: account.email for account in found if account.email}

    async def account(self, reference: str) -> AccountDetails:
        """Return an account with its keys and sessions."""
        request = operators_pb2.DescribeAccountRequest(account=reference)
        answer = await self._call(self._stub.DescribeAccount, request)
        return AccountDetails(
            account=messages.account_of(answer.account),
            plan=messages.plan_of(answer.plan),
            keys=[messages.key_of(key) for key in answer.keys],
            sessions=[messages.session_of(session) for session in answer.sessions],
            has_totp=answer.has_totp,
        )

    async def suspend(self, account_id: str, reason: str) -> Account:
        """Suspend an account."""
        request = operators_pb2.SuspendAccountAsOperatorRequest(account=account_id, reason=reason)
        return messages.account_of((await self._call(self._stub.SuspendAccountAsOperator, request)).account)

    async def resume(self, account_id: str) -> Account:
        """End a suspension."""
        request = operators_pb2.ResumeAccountAsOperatorRequest(account=account_id)
        return messages.account_of((await self._call(self._stub.ResumeAccountAsOperator, request)).account)

    async def end_sessions(self, account_id: str, session_id: str) -> int:
        """End a session, or all if `session_id` is empty, and return how many ended."""
        request = operators_pb2.EndAccountSessionsRequest(account=account_id, session_id=session_id)
        ended: int = (await self._call(self._stub.EndAccountSessions, request)).ended
        return ended

    async def move(self, account_id: str, plan: str) -> Account:
        """Move an account to another plan."""
        request = operators_pb2.SetAccountPlanAsOperatorRequest(account=account_id, plan=plan)
        return messages.account_of((await self._call(self._stub.SetAccountPlanAsOperator, request)).account)

    async def plans(self) -> Sequence[Plan]:
        """Return all plans, with the numbers of their accounts."""
        answer = await self._call(self._stub.ListPlansAsOperator, operators_pb2.ListPlansAsOperatorRequest())
        return [messages.plan_of(one.plan, one.accounts) for one in answer.plans]

    async def set_plan(self, plan: Plan, fields: Collection[str]) -> Plan:
        """Create a plan, or set some of its fields."""
        change = plans_pb2.SetPlanRequest(
            plan=messages.plan_to_proto(plan), update_mask=FieldMask(paths=sorted(fields))
        )
        request = operators_pb2.SetPlanAsOperatorRequest(change=change)
        return messages.plan_of((await self._call(self._stub.SetPlanAsOperator, request)).plan)

    async def invite(self, plan: str) -> str:
        """Create an invitation, and return its link."""
        request = operators_pb2.CreateInviteAsOperatorRequest(plan=plan)
        url: str = (await self._call(self._stub.CreateInviteAsOperator, request)).url
        return url

    async def invites(self) -> Sequence[Invite]:
        """Return the invitations that can be used."""
        answer = await self._call(self._stub.ListInvites, operators_pb2.ListInvitesRequest())
        return [messages.invite_of(one) for one in answer.invites]

    async def revoke_invite(self, invite_id: str) -> None:
        """Revoke an invitation."""
        await self._call(self._stub.RevokeInvite, operators_pb2.RevokeInviteRequest(id=invite_id))

    async def events(self, wanted: AuditSearch, *, limit: int) -> AuditPage:
        """Return events of the audit log, newest first."""
        request = operators_pb2.SearchAuditEventsRequest(
            account=wanted.account, actor=wanted.actor, action=wanted.action, before=wanted.before, page_size=limit
        )
        answer = await self._call(self._stub.SearchAuditEvents, request)
        operators = {one.id: one.email for one in answer.operators}
        return AuditPage([messages.event_of(one) for one in answer.events], operators)

    async def _call(self, method: Any, request: Message) -> Any:
        with rpc_errors(unavailable_reason="auth_unavailable"):
            return await method(request, metadata=self._metadata, timeout=self._timeout_seconds)
