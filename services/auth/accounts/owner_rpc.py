"""gRPC service OwnerService: users manage their own account, which is always the session's."""

from dataclasses import dataclass, replace

from services.auth import messages
from services.auth.accounts.plans import PRO_PLAN, Plan, PlanStore
from services.auth.audit import AuditLog
from services.auth.callers import SessionAuthenticator, user_actor
from services.auth.keys.manager import KeyManager
from services.auth.keys.model import Bounds, KeyStore, KeyUpdate
from services.auth.keys.verifier import KeyVerifier
from services.auth.sessions.log_in import LogIn
from services.auth.sessions.manager import SessionManager
from services.auth.watch.feed import ChangeFeed
from services.common.errors import NotFound
from services.common.ids import Kind
from services.common.rpc.types import Context
from stack.auth.v1 import owner_pb2, owner_pb2_grpc


@dataclass(frozen=True, slots=True)
class OwnedStores:
    """Stores used by `OwnerService`."""

    key_manager: KeyManager
    """Changes keys on the high-priority connections, so that other users' reads never delay a revocation."""
    keys: KeyStore
    """Reads keys."""
    audit_log: AuditLog
    sessions: SessionManager
    plans: PlanStore


class OwnerService(owner_pb2_grpc.OwnerServiceServicer):
    """Manages an account, its keys and its sessions for its owner."""

    def __init__(
        self,
        stores: OwnedStores,
        log_in: LogIn,
        verifier: KeyVerifier,
        *,
        feed: ChangeFeed,
        bounds: Bounds,
    ) -> None:
        """Use `stores`, and limit the number of keys to `bounds` unless the plan sets limits."""
        self._key_manager = stores.key_manager
        self._keys = stores.keys
        self._audit_log = stores.audit_log
        self._sessions = stores.sessions
        self._plans = stores.plans
        self._authenticator = SessionAuthenticator(stores.sessions)
        self._log_in = log_in
        self._verifier = verifier
        self._feed = feed
        self._bounds = bounds

    async def ChangePassword(
        self, request: owner_pb2.ChangePasswordRequest, context: Context
    ) -> owner_pb2.ChangePasswordResponse:
        """Replace the password and end all other sessions."""
        session = await self._authenticator.require(context)
        await self._log_in.change_password(
            session, request.current_password, request.new_password, by=user_actor(context)
        )
        return owner_pb2.ChangePasswordResponse()

    async def DeleteOwnAccount(
        self, request: owner_pb2.DeleteOwnAccountRequest, context: Context
    ) -> owner_pb2.DeleteOwnAccountResponse:
        """Delete the account. Requires the password."""
        session = await self._authenticator.require(context)
        await self._log_in.delete_account(session, request.password, by=user_actor(context))
        self._feed.notify()
        return owner_pb2.DeleteOwnAccountResponse()

    async def ListOwnSessions(
        self, request: owner_pb2.ListOwnSessionsRequest, context: Context
    ) -> owner_pb2.ListOwnSessionsResponse:
        """Return the open sessions."""
        session = await self._authenticator.require(context)
        listed = await self._sessions.of_account(session.account.id)
        return owner_pb2.ListOwnSessionsResponse(
            sessions=[messages.session(one, current_id=session.id) for one in listed]
        )

    async def EndOwnSession(
        self, request: owner_pb2.EndOwnSessionRequest, context: Context
    ) -> owner_pb2.EndOwnSessionResponse:
        """End one of the sessions."""
        session = await self._authenticator.require(context)
        session_id = messages.session_id(request.session_id)
        await self._sessions.end(session_id, owner=session.account.id, by=user_actor(context))
        return owner_pb2.EndOwnSessionResponse()

    async def CreateOwnKey(
        self, request: owner_pb2.CreateOwnKeyRequest, context: Context
    ) -> owner_pb2.CreateOwnKeyResponse:
        """Create a key. Only this response contains its secret."""
        session = await self._authenticator.require(context)
        key, secret = await self._key_manager.create(
            session.account.id,
            request.name,
            by=user_actor(context),
            expires_at=messages.moment(request, "expires_at"),
            models=request.models,
            bounds=self._bounds,
            proof=session.proof,
        )
        return owner_pb2.CreateOwnKeyResponse(key=messages.key(key), secret=secret)

    async def ListOwnKeys(
        self, request: owner_pb2.ListOwnKeysRequest, context: Context
    ) -> owner_pb2.ListOwnKeysResponse:
        """Return a page of the keys, and the account's limits on their number."""
        session = await self._authenticator.require(context)
        listed = await self._keys.of_account(
            session.account.id,
            after=messages.cursor(request.after, "after", Kind.KEY),
            limit=messages.page_size(request.page_size),
        )
        bounds = await self._keys.bounds_of(session.account.id, self._bounds)
        return owner_pb2.ListOwnKeysResponse(
            keys=[messages.key(key) for key in listed],
            active_keys_max=bounds.active_max,
            new_keys_per_day_max=bounds.new_per_day_max,
        )

    async def RevokeOwnKey(
        self, request: owner_pb2.RevokeOwnKeyRequest, context: Context
    ) -> owner_pb2.RevokeOwnKeyResponse:
        """Revoke a key permanently."""
        session = await self._authenticator.require(context)
        key = await self._key_manager.revoke(
            messages.key_id(request.key_id), by=user_actor(context), proof=session.proof
        )
        return owner_pb2.RevokeOwnKeyResponse(key=messages.key(key))

    async def RotateOwnKey(
        self, request: owner_pb2.RotateOwnKeyRequest, context: Context
    ) -> owner_pb2.RotateOwnKeyResponse:
        """Replace a key with a new one. Only this response contains its secret."""
        session = await self._authenticator.require(context)
        new, secret, replaced = await self._key_manager.rotate(
            messages.key_id(request.key_id),
            request.grace_seconds,
            by=user_actor(context),
            bounds=self._bounds,
            proof=session.proof,
        )
        return owner_pb2.RotateOwnKeyResponse(key=messages.key(new), secret=secret, replaced=messages.key(replaced))

    async def UpdateOwnKey(
        self, request: owner_pb2.UpdateOwnKeyRequest, context: Context
    ) -> owner_pb2.UpdateOwnKeyResponse:
        """Change settings of a key."""
        session = await self._authenticator.require(context)
        changes = KeyUpdate(
            frozenset(request.update_mask.paths),
            name=request.name,
            expires_at=messages.moment(request, "expires_at"),
            models=tuple(request.models),
            owner_daily_limit=request.owner_daily_limit if request.HasField("owner_daily_limit") else None,
            owner_limits=messages.limits(request.owner_limits),
            paused=request.paused,
        )
        key = await self._key_manager.update(
            messages.key_id(request.key_id), changes, by=user_actor(context), proof=session.proof
        )
        return owner_pb2.UpdateOwnKeyResponse(key=messages.key(key))

    async def RevokeOwnSecret(
        self, request: owner_pb2.RevokeOwnSecretRequest, context: Context
    ) -> owner_pb2.RevokeOwnSecretResponse:
        """Revoke the key with a secret."""
        session = await self._authenticator.require(context)
        found = await self._verifier.find(request.secret)
        if found is None or found.account_id != session.account.id:
            raise NotFound(
                "None of your keys has this secret, so nothing was revoked. Check that it is complete.",
                reason="key_not_found",
            )
        key = await self._key_manager.revoke(found.id, by=user_actor(context), proof=session.proof)
        return owner_pb2.RevokeOwnSecretResponse(key=messages.key(key))

    async def GetOwnPrincipal(
        self, request: owner_pb2.GetOwnPrincipalRequest, context: Context
    ) -> owner_pb2.GetOwnPrincipalResponse:
        """Return the principal of one of the account's keys, which must be active."""
        session = await self._authenticator.require(context)
        key = await self._keys.get(messages.key_id(request.key_id), owner=session.account.id)
        self._key_manager.require_active(key)
        return owner_pb2.GetOwnPrincipalResponse(principal=messages.principal(key))

    async def GetOwnPlan(self, request: owner_pb2.GetOwnPlanRequest, context: Context) -> owner_pb2.GetOwnPlanResponse:
        """Return the account's plan and the plan `pro`."""
        session = await self._authenticator.require(context)
        plans = {plan.name: messages.plan(self._with_bounds(plan)) for plan in await self._plans.plans()}
        return owner_pb2.GetOwnPlanResponse(plan=plans[session.account.plan], pro=plans.get(PRO_PLAN))

    def _with_bounds(self, plan: Plan) -> Plan:
        active, new = plan.active_keys_max, plan.new_keys_per_day_max
        return replace(
            plan,
            active_keys_max=self._bounds.active_max if active is None else active,
            new_keys_per_day_max=self._bounds.new_per_day_max if new is None else new,
        )

    async def ListOwnAuditEvents(
        self, request: owner_pb2.ListOwnAuditEventsRequest, context: Context
    ) -> owner_pb2.ListOwnAuditEventsResponse:
        """Return a page of the account's audit events, newest first."""
        session = await self._authenticator.require(context)
        events = await self._audit_log.events(
            account_id=session.account.id,
            before=messages.cursor(request.before, "before", Kind.AUDIT_EVENT),
            limit=messages.page_size(request.page_size),
        )
        return owner_pb2.ListOwnAuditEventsResponse(events=[messages.event(event) for event in events])
