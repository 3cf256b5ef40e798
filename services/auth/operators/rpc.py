"""gRPC service OperatorService: what operators do in their console. Each call is authenticated by their session."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.auth import messages
from services.auth.accounts.model import FREE_PLAN, AccountStore, checked_reason, checked_reference
from services.auth.accounts.plans import PLAN_FIELDS, PlanStore, checked_fields, checked_plan, checked_plan_name
from services.auth.accounts.rpc import plan_of
from services.auth.audit import OPERATOR_PREFIX, AuditLog
from services.auth.callers import OperatorAuthenticator
from services.auth.keys.model import KeyStore
from services.auth.keys.pepper import Pepper
from services.auth.mail.templates import EmailTemplates
from services.auth.operators.directory import AccountDirectory, AccountSearch, AccountState, checked_text
from services.auth.sessions.manager import SessionManager
from services.auth.sessions.one_time_tokens import INVITE_ID_CHARACTERS, OneTimeTokenStore, Purpose, mint_token
from services.auth.totp.manager import TOTPManager
from services.auth.watch.feed import ChangeFeed
from services.common.errors import InvalidRequest, NotFound
from services.common.ids import Kind, is_id
from services.common.rpc.types import Context
from services.common.runtime.clock import Clock, utc_now
from stack.auth.v1 import operators_pb2, operators_pb2_grpc

_KEYS_MAX = 100
_ITEMS_MAX = 1_000
_STATES = {
    operators_pb2.ACCOUNT_STATE_ACTIVE: AccountState.ACTIVE,
    operators_pb2.ACCOUNT_STATE_SUSPENDED: AccountState.SUSPENDED,
    operators_pb2.ACCOUNT_STATE_DELETED: AccountState.DELETED,
}


@dataclass(frozen=True, slots=True)
class OperatorStores:
    """What operators read and change."""

    accounts: AccountStore
    directory: AccountDirectory
    keys: KeyStore
    owner_sessions: SessionManager
    plans: PlanStore
    tokens: OneTimeTokenStore
    audit_log: AuditLog


class OperatorService(operators_pb2_grpc.OperatorServiceServicer):
    """Serves the operators' console."""

    def __init__(
        self,
        stores: OperatorStores,
        authenticator: OperatorAuthenticator,
        totp: TOTPManager,
        *,
        templates: EmailTemplates,
        feed: ChangeFeed,
        pepper: Pepper,
        clock: Clock,
    ) -> None:
        """Serve operators whom `authenticator` authenticates. Changes of keys are published to `feed`."""
        self._stores = stores
        self._authenticator = authenticator
        self._totp = totp
        self._templates = templates
        self._feed = feed
        self._pepper = pepper
        self._clock = clock

    async def GetOwnOperator(
        self, request: operators_pb2.GetOwnOperatorRequest, context: Context
    ) -> operators_pb2.GetOwnOperatorResponse:
        """Return the caller's session."""
        session = await self._authenticator.session(context)
        return operators_pb2.GetOwnOperatorResponse(session=messages.session(session, current_id=session.id))

    async def SearchAccounts(
        self, request: operators_pb2.SearchAccountsRequest, context: Context
    ) -> operators_pb2.SearchAccountsResponse:
        """Return a page of accounts, newest first."""
        await self._authenticator.require(context)
        wanted = AccountSearch(
            text=checked_text(request.text),
            plan=checked_plan_name(request.plan) if request.plan else "",
            state=_STATES.get(request.state),
            ids=_account_ids(request.ids),
            before=messages.cursor(request.before, "before", Kind.ACCOUNT),
        )
        found = await self._stores.directory.search(wanted, limit=messages.page_size(request.page_size))
        return operators_pb2.SearchAccountsResponse(accounts=map(messages.account, found))

    async def DescribeAccount(
        self, request: operators_pb2.DescribeAccountRequest, context: Context
    ) -> operators_pb2.DescribeAccountResponse:
        """Return an account with its keys and sessions."""
        await self._authenticator.require(context)
        account = await self._stores.accounts.get(checked_reference(request.account))
        keys = await self._stores.keys.newest_of_account(account.id, limit=_KEYS_MAX)
        return operators_pb2.DescribeAccountResponse(
            account=messages.account(account),
            plan=messages.plan(await self._stores.plans.get(account.plan)),
            keys=map(messages.key, keys),
            sessions=map(messages.session, await self._stores.owner_sessions.of_account(account.id)),
            has_totp=bool(await self._totp.enabled_id(account.id)),
        )

    async def SuspendAccountAsOperator(
        self, request: operators_pb2.SuspendAccountAsOperatorRequest, context: Context
    ) -> operators_pb2.SuspendAccountAsOperatorResponse:
        """Deny the keys of an account, and end its sessions."""
        operator = await self._authenticator.require(context)
        reference, reason = checked_reference(request.account), checked_reason(request.reason)
        account = await self._stores.accounts.suspend(reference, reason=reason, by=operator, at=utc_now(self._clock))
        self._feed.notify()
        return operators_pb2.SuspendAccountAsOperatorResponse(account=messages.account(account))

    async def ResumeAccountAsOperator(
        self, request: operators_pb2.ResumeAccountAsOperatorRequest, context: Context
    ) -> operators_pb2.ResumeAccountAsOperatorResponse:
        """End a suspension."""
        operator = await self._authenticator.require(context)
        reference = checked_reference(request.account)
        account = await self._stores.accounts.resume(reference, by=operator, at=utc_now(self._clock))
        self._feed.notify()
        return operators_pb2.ResumeAccountAsOperatorResponse(account=messages.account(account))

    async def EndAccountSessions(
        self, request: operators_pb2.EndAccountSessionsRequest, context: Context
    ) -> operators_pb2.EndAccountSessionsResponse:
        """End all sessions of an account, or one."""
        operator = await self._authenticator.require(context)
        session_id = messages.session_id(request.session_id) if request.session_id else None
        account = await self._stores.accounts.get(checked_reference(request.account))
        ended = await self._stores.owner_sessions.end(session_id, owner=account.id, by=operator)
        return operators_pb2.EndAccountSessionsResponse(ended=ended)

    async def SetAccountPlanAsOperator(
        self, request: operators_pb2.SetAccountPlanAsOperatorRequest, context: Context
    ) -> operators_pb2.SetAccountPlanAsOperatorResponse:
        """Move an account to another plan."""
        operator = await self._authenticator.require(context)
        reference, plan = checked_reference(request.account), checked_plan_name(request.plan)
        account = await self._stores.accounts.set_plan(reference, plan, by=operator, at=utc_now(self._clock))
        self._feed.notify()
        return operators_pb2.SetAccountPlanAsOperatorResponse(account=messages.account(account))

    async def ListPlansAsOperator(
        self, request: operators_pb2.ListPlansAsOperatorRequest, context: Context
    ) -> operators_pb2.ListPlansAsOperatorResponse:
        """Return all plans, and how many accounts have them."""
        await self._authenticator.require(context)
        plans, counts = await self._stores.plans.plans(), await self._stores.directory.accounts_by_plan()
        return operators_pb2.ListPlansAsOperatorResponse(
            plans=[
                operators_pb2.PlanWithAccounts(plan=messages.plan(plan), accounts=counts.get(plan.name, 0))
                for plan in plans
            ]
        )

    async def SetPlanAsOperator(
        self, request: operators_pb2.SetPlanAsOperatorRequest, context: Context
    ) -> operators_pb2.SetPlanAsOperatorResponse:
        """Create a plan, or update the fields in the update mask."""
        operator, change = await self._authenticator.require(context), request.change
        only = checked_fields(change.update_mask.paths) if change.HasField("update_mask") else PLAN_FIELDS
        plan = checked_plan(plan_of(change.plan))
        changes = messages.limit_changes(change.changed_limits, change.removed_limits)
        kept = await self._stores.plans.set(
            plan, by=operator, at=utc_now(self._clock), only=only, limit_changes=changes
        )
        self._feed.notify()
        return operators_pb2.SetPlanAsOperatorResponse(plan=messages.plan(kept))

    async def CreateInviteAsOperator(
        self, request: operators_pb2.CreateInviteAsOperatorRequest, context: Context
    ) -> operators_pb2.CreateInviteAsOperatorResponse:
        """Return a token and a link that allow one sign-up."""
        operator = await self._authenticator.require(context)
        plan = checked_plan_name(request.plan or FREE_PLAN)
        minted = mint_token(Purpose.INVITE, plan=plan, pepper=self._pepper, clock=self._clock)
        await self._stores.tokens.add(minted.kept, by=operator, at=utc_now(self._clock))
        return operators_pb2.CreateInviteAsOperatorResponse(
            token=minted.text,
            url=self._templates.url("signup", minted.text),
            expires_at=messages.timestamp(minted.kept.expires_at),
        )

    async def ListInvites(
        self, request: operators_pb2.ListInvitesRequest, context: Context
    ) -> operators_pb2.ListInvitesResponse:
        """Return the invitations that can be used."""
        await self._authenticator.require(context)
        found = await self._stores.tokens.invites(now=utc_now(self._clock), limit=_ITEMS_MAX)
        return operators_pb2.ListInvitesResponse(
            invites=[
                operators_pb2.Invite(id=one.id, plan=one.plan, expires_at=messages.timestamp(one.expires_at))
                for one in found
            ]
        )

    async def RevokeInvite(
        self, request: operators_pb2.RevokeInviteRequest, context: Context
    ) -> operators_pb2.RevokeInviteResponse:
        """Revoke an invitation."""
        operator = await self._authenticator.require(context)
        await self._stores.tokens.revoke_invite(_invite_id(request.id), by=operator, at=utc_now(self._clock))
        return operators_pb2.RevokeInviteResponse()

    async def SearchAuditEvents(
        self, request: operators_pb2.SearchAuditEventsRequest, context: Context
    ) -> operators_pb2.SearchAuditEventsResponse:
        """Return a page of audit events of all accounts, newest first, with the accounts of their operators."""
        await self._authenticator.require(context)
        account_id = ""
        if request.account:
            account_id = (await self._stores.accounts.get(checked_reference(request.account))).id
        events = await self._stores.audit_log.events(
            account_id=account_id,
            before=messages.cursor(request.before, "before", Kind.AUDIT_EVENT),
            limit=messages.page_size(request.page_size),
            actor=checked_text(request.actor),
            action=checked_text(request.action),
        )
        names = {event.actor.name.removeprefix(OPERATOR_PREFIX) for event in events}
        ids = sorted(name for name in names if is_id(name, Kind.ACCOUNT))
        operators = await self._stores.directory.search(AccountSearch(ids=ids), limit=_ITEMS_MAX) if ids else []
        return operators_pb2.SearchAuditEventsResponse(
            events=map(messages.event, events), operators=map(messages.account, operators)
        )


def _account_ids(ids: Sequence[str]) -> Sequence[str]:
    """Return ids to search for.

    Raises:
        InvalidRequest: There are too many, or one is not an account id.
    """
    if len(ids) > _ITEMS_MAX or not all(is_id(one, Kind.ACCOUNT) for one in ids):
        raise InvalidRequest(f"ids: expected at most {_ITEMS_MAX:,} account ids such as acc_01J….", reason="invalid_id")
    return ids


def _invite_id(text: str) -> str:
    """Return the id of an invitation. Shorter texts would mean several.

    Raises:
        NotFound: The text is not such an id.
    """
    if len(text) != INVITE_ID_CHARACTERS or not set(text) <= set("0123456789abcdef"):
        raise NotFound("Not the id of an invitation. List the invitations to see their ids.", reason="invite_not_found")
    return text
