"""gRPC clients for auth's user RPCs. The session's token is their only credential."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from services.common.errors import Unauthenticated
from services.common.rpc.limits import limit_to_proto, limits_from_proto
from services.common.rpc.status import rpc_errors
from services.common.timestamps import timestamp, unix_seconds
from services.gateway.clients.alerts import KIND_OF, KINDS
from services.gateway.clients.auth import principal_of
from services.gateway.console.ports import (
    AccountEvent,
    AlertSettings,
    Key,
    Keys,
    KeySettings,
    NewKey,
    OpenSession,
    PendingLogIn,
    Plan,
    Plans,
    Reset,
    Session,
    SignUp,
)
from services.gateway.requests.types import Principal
from stack.auth.v1 import (
    alerts_pb2,
    alerts_pb2_grpc,
    keys_pb2,
    owner_pb2,
    owner_pb2_grpc,
    plans_pb2,
    sessions_pb2,
    sessions_pb2_grpc,
)

_PAGE_SIZE = 1_000
_POLICIES = {
    sessions_pb2.SIGN_UP_POLICY_OPEN: "open",
    sessions_pb2.SIGN_UP_POLICY_INVITE: "invite",
    sessions_pb2.SIGN_UP_POLICY_CLOSED: "closed",
}
Metadata = tuple[tuple[str, str], ...]


def _auth_errors() -> AbstractContextManager[None]:
    return rpc_errors(unavailable_reason="auth_unavailable")


class GrpcSessionClient:
    """A `SessionClient` over auth's SessionService."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Use `channel`, with a timeout of `timeout_seconds` per call."""
        self._stub = sessions_pb2_grpc.SessionServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def describe_sign_up(self, invite: str) -> SignUp:
        """Return who may sign up."""
        request = sessions_pb2.DescribeSignUpRequest(invite=invite)
        with _auth_errors():
            answer = await self._stub.DescribeSignUp(request, timeout=self._timeout_seconds)
        daily_limit = answer.daily_limit if answer.HasField("daily_limit") else None
        return SignUp(_POLICIES.get(answer.policy, "closed"), answer.has_mail, daily_limit)

    async def sign_up(self, email: str, password: str, *, invite: str, address: str) -> OpenSession | None:
        """Create an account."""
        request = sessions_pb2.SignUpRequest(email=email, password=password, invite=invite)
        with _auth_errors():
            answer = await self._stub.SignUp(request, metadata=from_address(address), timeout=self._timeout_seconds)
        return open_session_of(answer.session) if answer.HasField("session") else None

    async def log_in(
        self, email: str, password: str, *, replaced_token: str, device_token: str, address: str
    ) -> OpenSession | PendingLogIn:
        """Create a session or a pending log-in."""
        request = sessions_pb2.LogInRequest(
            email=email, password=password, replaced_token=replaced_token, device_token=device_token
        )
        with _auth_errors():
            answer = await self._stub.LogIn(request, metadata=from_address(address), timeout=self._timeout_seconds)
        if answer.pending_token:
            return PendingLogIn(answer.pending_token)
        return open_session_of(answer.session)

    async def log_out(self, token: str, *, address: str) -> None:
        """End a session."""
        request = sessions_pb2.LogOutRequest(token=token)
        with _auth_errors():
            await self._stub.LogOut(request, metadata=from_address(address), timeout=self._timeout_seconds)

    async def session(self, token: str, *, is_check: bool = False) -> Session | None:
        """Return the session of a token, or None if it has ended."""
        request = sessions_pb2.GetSessionRequest(token=token, is_check=is_check)
        try:
            with _auth_errors():
                answer = await self._stub.GetSession(request, timeout=self._timeout_seconds)
        except Unauthenticated:
            return None
        return _session(answer.session)

    async def verify_email(self, token: str, *, address: str) -> str:
        """Verify an e-mail address and return it."""
        request = sessions_pb2.VerifyEmailRequest(token=token)
        with _auth_errors():
            answer = await self._stub.VerifyEmail(
                request, metadata=from_address(address), timeout=self._timeout_seconds
            )
        return answer.email

    async def send_verification(self, email: str, *, address: str) -> None:
        """Send another verification e-mail."""
        request = sessions_pb2.SendVerificationRequest(email=email)
        with _auth_errors():
            await self._stub.SendVerification(request, metadata=from_address(address), timeout=self._timeout_seconds)

    async def send_password_reset(self, email: str, *, address: str) -> None:
        """Send an e-mail with a password reset token."""
        request = sessions_pb2.SendPasswordResetRequest(email=email)
        with _auth_errors():
            await self._stub.SendPasswordReset(request, metadata=from_address(address), timeout=self._timeout_seconds)

    async def reset_password(self, token: str, password: str, *, address: str) -> Reset:
        """Set a new password with a password reset token."""
        request = sessions_pb2.ResetPasswordRequest(token=token, password=password)
        with _auth_errors():
            answer = await self._stub.ResetPassword(
                request, metadata=from_address(address), timeout=self._timeout_seconds
            )
        return Reset(answer.email, answer.device_token)


class GrpcOwnerClient:
    """An `OwnerClient` over auth's OwnerService, for the token of one session."""

    def __init__(self, channel: aio.Channel, token: str, *, address: str, timeout_seconds: float) -> None:
        """Use `channel` with the token of a session. `address` is the client's address."""
        self._stub = owner_pb2_grpc.OwnerServiceStub(channel)
        self._alerts = alerts_pb2_grpc.OwnerAlertServiceStub(channel)
        self._metadata: Metadata = owner_metadata(token, address)
        self._timeout_seconds = timeout_seconds

    async def keys(self) -> Keys:
        """Return all keys, oldest first."""
        keys: list[Key] = []
        while True:
            page = await self._keys_after(keys[-1].id if keys else "")
            keys += [_key(key) for key in page.keys]
            if len(page.keys) < _PAGE_SIZE:
                return Keys(keys, page.active_keys_max, page.new_keys_per_day_max)

    async def _keys_after(self, key_id: str) -> owner_pb2.ListOwnKeysResponse:
        request = owner_pb2.ListOwnKeysRequest(page_size=_PAGE_SIZE, after=key_id)
        with _auth_errors():
            return await self._stub.ListOwnKeys(request, metadata=self._metadata, timeout=self._timeout_seconds)

    async def create_key(self, name: str, *, expires_at: float | None, models: Sequence[str]) -> NewKey:
        """Create a key."""
        ends = None if expires_at is None else timestamp(expires_at)
        request = owner_pb2.CreateOwnKeyRequest(name=name, expires_at=ends, models=models)
        with _auth_errors():
            answer = await self._stub.CreateOwnKey(request, metadata=self._metadata, timeout=self._timeout_seconds)
        return NewKey(_key(answer.key), answer.secret)

    async def rotate_key(self, key_id: str, *, grace_seconds: int) -> NewKey:
        """Rotate a key."""
        request = owner_pb2.RotateOwnKeyRequest(key_id=key_id, grace_seconds=grace_seconds)
        with _auth_errors():
            answer = await self._stub.RotateOwnKey(request, metadata=self._metadata, timeout=self._timeout_seconds)
        return NewKey(_key(answer.key), answer.secret)

    async def revoke_key(self, key_id: str) -> Key:
        """Revoke a key permanently."""
        with _auth_errors():
            answer = await self._stub.RevokeOwnKey(
                owner_pb2.RevokeOwnKeyRequest(key_id=key_id), metadata=self._metadata, timeout=self._timeout_seconds
            )
        return _key(answer.key)

    async def update_key(self, key_id: str, settings: KeySettings, *, sets_expiry: bool) -> Key:
        """Change the settings of a key."""
        paths = ["name", "models", "owner_daily_limit", "owner_limits", *(["expires_at"] if sets_expiry else [])]
        request = owner_pb2.UpdateOwnKeyRequest(
            key_id=key_id,
            update_mask=FieldMask(paths=paths),
            name=settings.name,
            expires_at=None if settings.expires_at is None else timestamp(settings.expires_at),
            models=settings.models,
            owner_daily_limit=settings.owner_daily_limit,
            owner_limits=map(limit_to_proto, settings.owner_limits),
        )
        return await self._update(request)

    async def pause_key(self, key_id: str, *, is_paused: bool) -> Key:
        """Pause or resume a key."""
        return await self._update(
            owner_pb2.UpdateOwnKeyRequest(key_id=key_id, update_mask=FieldMask(paths=["paused"]), paused=is_paused)
        )

    async def _update(self, request: owner_pb2.UpdateOwnKeyRequest) -> Key:
        with _auth_errors():
            answer = await self._stub.UpdateOwnKey(request, metadata=self._metadata, timeout=self._timeout_seconds)
        return _key(answer.key)

    async def revoke_secret(self, secret: str) -> Key:
        """Revoke the key with this secret."""
        request = owner_pb2.RevokeOwnSecretRequest(secret=secret)
        with _auth_errors():
            answer = await self._stub.RevokeOwnSecret(request, metadata=self._metadata, timeout=self._timeout_seconds)
        return _key(answer.key)

    async def principal(self, key_id: str) -> Principal:
        """Return the current principal of a key."""
        request = owner_pb2.GetOwnPrincipalRequest(key_id=key_id)
        with _auth_errors():
            answer = await self._stub.GetOwnPrincipal(request, metadata=self._metadata, timeout=self._timeout_seconds)
        # A browser repeats no request by itself, and the button that stops an answer must end the request.
        return replace(principal_of(answer.principal), deduplicate_retries=False)

    async def plan(self) -> Plans:
        """Return the account's plan."""
        with _auth_errors():
            answer = await self._stub.GetOwnPlan(
                owner_pb2.GetOwnPlanRequest(), metadata=self._metadata, timeout=self._timeout_seconds
            )
        return Plans(_plan(answer.plan), _plan(answer.pro) if answer.HasField("pro") else None)

    async def alert_settings(self) -> AlertSettings:
        """Return the alerts that the owner wants."""
        with _auth_errors():
            answer = await self._alerts.GetOwnAlertSettings(
                alerts_pb2.GetOwnAlertSettingsRequest(), metadata=self._metadata, timeout=self._timeout_seconds
            )
        mail, webhook = (
            frozenset(KIND_OF[kind] for kind in kinds if kind in KIND_OF)
            for kinds in (answer.settings.mail, answer.settings.webhook)
        )
        return AlertSettings(mail, webhook, has_mail=answer.has_mail)

    async def set_alert_settings(self, settings: AlertSettings) -> None:
        """Replace the alerts that the owner wants."""
        message = alerts_pb2.AlertSettings(
            mail=[KINDS[kind] for kind in settings.mail], webhook=[KINDS[kind] for kind in settings.webhook]
        )
        request = alerts_pb2.SetOwnAlertSettingsRequest(settings=message)
        with _auth_errors():
            await self._alerts.SetOwnAlertSettings(request, metadata=self._metadata, timeout=self._timeout_seconds)

    async def sessions(self) -> Sequence[Session]:
        """Return the active sessions, newest first."""
        with _auth_errors():
            answer = await self._stub.ListOwnSessions(
                owner_pb2.ListOwnSessionsRequest(), metadata=self._metadata, timeout=self._timeout_seconds
            )
        return [_session(session) for session in answer.sessions]

    async def end_session(self, session_id: str) -> None:
        """End a session."""
        request = owner_pb2.EndOwnSessionRequest(session_id=session_id)
        with _auth_errors():
            await self._stub.EndOwnSession(request, metadata=self._metadata, timeout=self._timeout_seconds)

    async def events(self, *, before: str, count: int) -> Sequence[AccountEvent]:
        """Return a page of the audit log, newest first."""
        request = owner_pb2.ListOwnAuditEventsRequest(page_size=count, before=before)
        with _auth_errors():
            answer = await self._stub.ListOwnAuditEvents(
                request, metadata=self._metadata, timeout=self._timeout_seconds
            )
        return [
            AccountEvent(event.id, unix_seconds(event.at), event.actor, event.address, event.action, event.target)
            for event in answer.events
        ]

    async def change_password(self, current: str, new: str) -> None:
        """Change the password."""
        request = owner_pb2.ChangePasswordRequest(current_password=current, new_password=new)
        with _auth_errors():
            await self._stub.ChangePassword(request, metadata=self._metadata, timeout=self._timeout_seconds)

    async def delete_account(self, password: str) -> None:
        """Delete the account."""
        request = owner_pb2.DeleteOwnAccountRequest(password=password)
        with _auth_errors():
            await self._stub.DeleteOwnAccount(request, metadata=self._metadata, timeout=self._timeout_seconds)


def owner_metadata(token: str, address: str = "") -> Metadata:
    """Return the metadata of an owner's call: the token of the session, and the client's address."""
    return (("authorization", f"Bearer {token}"), *from_address(address))


def from_address(address: str) -> Metadata:
    """Return the metadata with the client's address, without one that gRPC cannot carry."""
    return (("stack-client-address", address),) if address.isascii() and address.isprintable() else ()


def open_session_of(opened: sessions_pb2.OpenSession) -> OpenSession:
    """Return the session of a message."""
    return OpenSession(_session(opened.session), opened.token, opened.device_token)


def _session(session: sessions_pb2.Session) -> Session:
    return Session(
        id=session.id,
        account_id=session.account.id,
        email=session.account.email,
        plan=session.account.plan,
        created_at=unix_seconds(session.created_at),
        expires_at=unix_seconds(session.expires_at),
        last_used_at=unix_seconds(session.last_used_at),
        address=session.address,
        is_current=session.is_current,
        quota_account_id=session.account.quota_account_id or session.account.id,
    )


def _plan(plan: plans_pb2.Plan) -> Plan:
    return Plan(
        plan.name,
        plan.daily_limit,
        plan.account_daily_limit if plan.HasField("account_daily_limit") else None,
        plan.active_keys_max,
        plan.new_keys_per_day_max,
        limits_from_proto(plan.limits),
        plan.weight or 1,
    )


def _key(key: keys_pb2.Key) -> Key:
    return Key(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        daily_limit=key.daily_limit,
        created_at=unix_seconds(key.created_at),
        revoked_at=_or_none(key, "revoked_at"),
        expires_at=_or_none(key, "expires_at"),
        models=tuple(key.models),
        replaced_by=key.replaced_by,
        limits=limits_from_proto(key.limits),
        paused_at=_or_none(key, "paused_at"),
        owner_daily_limit=key.owner_daily_limit if key.HasField("owner_daily_limit") else None,
        owner_limits=limits_from_proto(key.owner_limits),
    )


def _or_none(message: Message, field: str) -> float | None:
    value = getattr(message, field)
    assert isinstance(value, Timestamp)
    return unix_seconds(value) if message.HasField(field) else None
