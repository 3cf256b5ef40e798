"""gRPC services AccountService, PlanService and AuditService, for operators, and PlanEventService."""

from services.auth import messages
from services.auth.accounts.model import (
    FREE_PLAN,
    AccountStore,
    NewAccount,
    checked_reason,
    checked_reference,
    open_account,
)
from services.auth.accounts.plan_events import PlanEvents, PlanEventStatus
from services.auth.accounts.plans import PLAN_FIELDS, Plan, PlanStore, checked_fields, checked_plan, checked_plan_name
from services.auth.accounts.webhook_signatures import SignedMessage
from services.auth.audit import AuditLog
from services.auth.callers import AdminToken, webhook_actor
from services.auth.keys.pepper import Pepper
from services.auth.limits import WEIGHT_DEFAULT
from services.auth.mail.templates import EmailTemplates
from services.auth.operators.model import OperatorStore
from services.auth.sessions.one_time_tokens import MintedToken, OneTimeTokenStore, Purpose, mint_token
from services.auth.totp.model import TOTPStore
from services.auth.watch.feed import ChangeFeed
from services.common.errors import FailedPrecondition
from services.common.ids import Kind
from services.common.rpc.types import Context
from services.common.runtime.clock import Clock, utc_now
from stack.auth.v1 import accounts_pb2, accounts_pb2_grpc, audit_pb2, audit_pb2_grpc, plans_pb2, plans_pb2_grpc

_EVENT_STATUSES = {
    PlanEventStatus.APPLIED: plans_pb2.PLAN_EVENT_STATUS_APPLIED,
    PlanEventStatus.DUPLICATE: plans_pb2.PLAN_EVENT_STATUS_DUPLICATE,
    PlanEventStatus.STALE: plans_pb2.PLAN_EVENT_STATUS_STALE,
    PlanEventStatus.IGNORED: plans_pb2.PLAN_EVENT_STATUS_IGNORED,
}


class AccountService(accounts_pb2_grpc.AccountServiceServicer):
    """Manages accounts for operators, and publishes the resulting key changes to the feed."""

    def __init__(
        self,
        store: AccountStore,
        tokens: OneTimeTokenStore,
        totp: TOTPStore,
        operators: OperatorStore,
        *,
        templates: EmailTemplates,
        feed: ChangeFeed,
        pepper: Pepper,
        admin_token: AdminToken,
        clock: Clock,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._totp = totp
        self._operators = operators
        self._templates = templates
        self._feed = feed
        self._pepper = pepper
        self._admin_token = admin_token
        self._clock = clock

    async def CreateAccount(
        self, request: accounts_pb2.CreateAccountRequest, context: Context
    ) -> accounts_pb2.CreateAccountResponse:
        """Create an account without a password."""
        operator = self._admin_token.require(context)
        plan = checked_plan_name(request.plan or FREE_PLAN)
        account = open_account(request.email, now=utc_now(self._clock), plan=plan)
        kept = await self._store.add(NewAccount(account), by=operator)
        return accounts_pb2.CreateAccountResponse(account=messages.account(kept))

    async def GetAccount(
        self, request: accounts_pb2.GetAccountRequest, context: Context
    ) -> accounts_pb2.GetAccountResponse:
        """Return an account."""
        self._admin_token.require(context)
        account = await self._store.get(checked_reference(request.account))
        return accounts_pb2.GetAccountResponse(account=messages.account(account))

    async def ListAccounts(
        self, request: accounts_pb2.ListAccountsRequest, context: Context
    ) -> accounts_pb2.ListAccountsResponse:
        """Return a page of accounts in id order, oldest first."""
        self._admin_token.require(context)
        after = messages.cursor(request.after, "after", Kind.ACCOUNT)
        listed = await self._store.page(after=after, limit=messages.page_size(request.page_size))
        return accounts_pb2.ListAccountsResponse(accounts=[messages.account(account) for account in listed])

    async def SetAccountPlan(
        self, request: accounts_pb2.SetAccountPlanRequest, context: Context
    ) -> accounts_pb2.SetAccountPlanResponse:
        """Move an account to another plan."""
        operator = self._admin_token.require(context)
        reference, plan = checked_reference(request.account), checked_plan_name(request.plan)
        account = await self._store.set_plan(reference, plan, by=operator, at=utc_now(self._clock))
        self._feed.notify()
        return accounts_pb2.SetAccountPlanResponse(account=messages.account(account))

    async def SuspendAccount(
        self, request: accounts_pb2.SuspendAccountRequest, context: Context
    ) -> accounts_pb2.SuspendAccountResponse:
        """Suspend an account."""
        operator = self._admin_token.require(context)
        reference, reason = checked_reference(request.account), checked_reason(request.reason)
        account = await self._store.suspend(reference, reason=reason, by=operator, at=utc_now(self._clock))
        self._feed.notify()
        return accounts_pb2.SuspendAccountResponse(account=messages.account(account))

    async def ResumeAccount(
        self, request: accounts_pb2.ResumeAccountRequest, context: Context
    ) -> accounts_pb2.ResumeAccountResponse:
        """End a suspension."""
        operator = self._admin_token.require(context)
        account = await self._store.resume(checked_reference(request.account), by=operator, at=utc_now(self._clock))
        self._feed.notify()
        return accounts_pb2.ResumeAccountResponse(account=messages.account(account))

    async def DeleteAccount(
        self, request: accounts_pb2.DeleteAccountRequest, context: Context
    ) -> accounts_pb2.DeleteAccountResponse:
        """Delete an account."""
        operator = self._admin_token.require(context)
        reference = checked_reference(request.account)
        account = await self._store.delete(reference, by=operator, at=utc_now(self._clock))
        self._feed.notify()
        return accounts_pb2.DeleteAccountResponse(account=messages.account(account))

    async def CreatePasswordReset(
        self, request: accounts_pb2.CreatePasswordResetRequest, context: Context
    ) -> accounts_pb2.CreatePasswordResetResponse:
        """Return a token and a link that let the owner choose a password."""
        operator = self._admin_token.require(context)
        account = await self._store.get(checked_reference(request.account))
        if account.deleted_at is not None:
            raise FailedPrecondition(f"Account {account.id} was deleted. Create another.", reason="account_deleted")
        minted = mint_token(Purpose.RESET_PASSWORD, account_id=account.id, pepper=self._pepper, clock=self._clock)
        await self._tokens.add(minted.kept, by=operator, at=utc_now(self._clock))
        return accounts_pb2.CreatePasswordResetResponse(
            token=minted.text,
            url=self._templates.url("reset", minted.text),
            expires_at=messages.timestamp(minted.kept.expires_at),
        )

    async def ResetTOTP(
        self, request: accounts_pb2.ResetTOTPRequest, context: Context
    ) -> accounts_pb2.ResetTOTPResponse:
        """Remove the second factor of an account whose owner lost it."""
        operator = self._admin_token.require(context)
        account = await self._store.get(checked_reference(request.account))
        await self._totp.reset(account.id, by=operator, at=utc_now(self._clock))
        return accounts_pb2.ResetTOTPResponse(account=messages.account(account))

    async def CreateInvite(
        self, request: accounts_pb2.CreateInviteRequest, context: Context
    ) -> accounts_pb2.CreateInviteResponse:
        """Return a token and a link that allow one sign-up."""
        operator = self._admin_token.require(context)
        minted = self._invitation(checked_plan_name(request.plan or FREE_PLAN))
        await self._tokens.add(minted.kept, by=operator, at=utc_now(self._clock))
        return accounts_pb2.CreateInviteResponse(
            token=minted.text,
            url=self._templates.url("signup", minted.text),
            expires_at=messages.timestamp(minted.kept.expires_at),
        )

    async def AddOperator(
        self, request: accounts_pb2.AddOperatorRequest, context: Context
    ) -> accounts_pb2.AddOperatorResponse:
        """Give an account the role of operators."""
        by = self._admin_token.require(context)
        account = await self._operators.add(checked_reference(request.account), by=by, at=utc_now(self._clock))
        return accounts_pb2.AddOperatorResponse(account=messages.account(account))

    async def RemoveOperator(
        self, request: accounts_pb2.RemoveOperatorRequest, context: Context
    ) -> accounts_pb2.RemoveOperatorResponse:
        """Take the role of operators away."""
        by = self._admin_token.require(context)
        account = await self._operators.remove(checked_reference(request.account), by=by, at=utc_now(self._clock))
        return accounts_pb2.RemoveOperatorResponse(account=messages.account(account))

    async def ListOperators(
        self, request: accounts_pb2.ListOperatorsRequest, context: Context
    ) -> accounts_pb2.ListOperatorsResponse:
        """Return all operators."""
        self._admin_token.require(context)
        found = await self._operators.operators()
        return accounts_pb2.ListOperatorsResponse(
            operators=[
                accounts_pb2.Operator(account=messages.account(one.account), has_totp=one.has_totp) for one in found
            ]
        )

    def _invitation(self, plan: str) -> MintedToken:
        return mint_token(Purpose.INVITE, plan=plan, pepper=self._pepper, clock=self._clock)


class PlanService(plans_pb2_grpc.PlanServiceServicer):
    """Manages plans for operators."""

    def __init__(self, store: PlanStore, *, feed: ChangeFeed, admin_token: AdminToken, clock: Clock) -> None:
        self._store = store
        self._feed = feed
        self._admin_token = admin_token
        self._clock = clock

    async def ListPlans(self, request: plans_pb2.ListPlansRequest, context: Context) -> plans_pb2.ListPlansResponse:
        """Return all plans, ordered by name."""
        self._admin_token.require(context)
        return plans_pb2.ListPlansResponse(plans=[messages.plan(plan) for plan in await self._store.plans()])

    async def SetPlan(self, request: plans_pb2.SetPlanRequest, context: Context) -> plans_pb2.SetPlanResponse:
        """Create a plan, or update the fields in the update mask."""
        operator = self._admin_token.require(context)
        only = checked_fields(request.update_mask.paths) if request.HasField("update_mask") else PLAN_FIELDS
        plan = checked_plan(plan_of(request.plan))
        changes = messages.limit_changes(request.changed_limits, request.removed_limits)
        plan = await self._store.set(plan, by=operator, at=utc_now(self._clock), only=only, limit_changes=changes)
        self._feed.notify()
        return plans_pb2.SetPlanResponse(plan=messages.plan(plan))


class PlanEventService(plans_pb2_grpc.PlanEventServiceServicer):
    """Receives plan events of payment providers."""

    def __init__(self, plan_events: PlanEvents) -> None:
        self._plan_events = plan_events

    async def ApplyPlanEvent(
        self, request: plans_pb2.ApplyPlanEventRequest, context: Context
    ) -> plans_pb2.ApplyPlanEventResponse:
        """Verify and apply an event."""
        message = SignedMessage(request.webhook_id, request.webhook_timestamp, request.webhook_signature, request.body)
        status = await self._plan_events.receive(message, by=webhook_actor(context))
        return plans_pb2.ApplyPlanEventResponse(status=_EVENT_STATUSES[status])


class AuditService(audit_pb2_grpc.AuditServiceServicer):
    """Reads the audit log for operators."""

    def __init__(self, log: AuditLog, accounts: AccountStore, *, admin_token: AdminToken) -> None:
        self._log = log
        self._accounts = accounts
        self._admin_token = admin_token

    async def ListAuditEvents(
        self, request: audit_pb2.ListAuditEventsRequest, context: Context
    ) -> audit_pb2.ListAuditEventsResponse:
        """Return a page of audit events, newest first."""
        self._admin_token.require(context)
        account_id = ""
        if request.account:
            account_id = (await self._accounts.get(checked_reference(request.account))).id
        events = await self._log.events(
            account_id=account_id,
            before=messages.cursor(request.before, "before", Kind.AUDIT_EVENT),
            limit=messages.page_size(request.page_size),
        )
        return audit_pb2.ListAuditEventsResponse(events=[messages.event(event) for event in events])


def plan_of(message: plans_pb2.Plan) -> Plan:
    """Return the plan of a message. Raises the exceptions of `messages.limits`."""
    return Plan(
        name=message.name,
        daily_limit=message.daily_limit,
        active_keys_max=message.active_keys_max if message.HasField("active_keys_max") else None,
        new_keys_per_day_max=message.new_keys_per_day_max if message.HasField("new_keys_per_day_max") else None,
        account_daily_limit=message.account_daily_limit if message.HasField("account_daily_limit") else None,
        limits=messages.limits(message.limits),
        weight=message.weight or WEIGHT_DEFAULT,
    )
