"""Conversion between protobuf messages of auth and what the pages show."""

from google.protobuf.message import Message

from services.common.rpc.limits import limit_to_proto, limits_from_proto
from services.common.timestamps import unix_seconds
from services.operator_console.model import Account, AuditEvent, Invite, Key, OpenSession, Plan, Session
from stack.auth.v1 import accounts_pb2, audit_pb2, keys_pb2, operators_pb2, plans_pb2, sessions_pb2


def account_of(message: accounts_pb2.Account) -> Account:
    """Return an account."""
    return Account(
        id=message.id,
        email=message.email,
        plan=message.plan,
        created_at=unix_seconds(message.created_at),
        verified_at=_or_none(message, "email_verified_at"),
        deleted_at=_or_none(message, "deleted_at"),
        suspended_at=_or_none(message, "suspended_at"),
        operator_since=_or_none(message, "operator_since"),
    )


def session_of(message: sessions_pb2.Session) -> Session:
    """Return a session."""
    return Session(
        id=message.id,
        account_id=message.account.id,
        email=message.account.email,
        created_at=unix_seconds(message.created_at),
        last_used_at=unix_seconds(message.last_used_at),
        expires_at=unix_seconds(message.expires_at),
        address=message.address,
    )


def open_session_of(message: sessions_pb2.OpenSession) -> OpenSession:
    """Return a new session with its credentials."""
    return OpenSession(session_of(message.session), message.token, message.device_token)


def key_of(message: keys_pb2.Key) -> Key:
    """Return a key."""
    return Key(
        id=message.id,
        name=message.name,
        prefix=message.prefix,
        daily_limit=message.daily_limit,
        created_at=unix_seconds(message.created_at),
        revoked_at=_or_none(message, "revoked_at"),
        expires_at=_or_none(message, "expires_at"),
        paused_at=_or_none(message, "paused_at"),
    )


def plan_of(message: plans_pb2.Plan, accounts: int = 0) -> Plan:
    """Return a plan with the number of its accounts."""
    return Plan(
        name=message.name,
        daily_limit=message.daily_limit,
        account_daily_limit=message.account_daily_limit if message.HasField("account_daily_limit") else None,
        active_keys_max=message.active_keys_max if message.HasField("active_keys_max") else None,
        new_keys_per_day_max=message.new_keys_per_day_max if message.HasField("new_keys_per_day_max") else None,
        weight=message.weight or 1,
        limits=limits_from_proto(message.limits),
        accounts=accounts,
    )


def plan_to_proto(plan: Plan) -> plans_pb2.Plan:
    """Return a plan as a message."""
    return plans_pb2.Plan(
        name=plan.name,
        daily_limit=plan.daily_limit,
        account_daily_limit=plan.account_daily_limit,
        active_keys_max=plan.active_keys_max,
        new_keys_per_day_max=plan.new_keys_per_day_max,
        weight=plan.weight,
        limits=map(limit_to_proto, plan.limits),
    )


def invite_of(message: operators_pb2.Invite) -> Invite:
    """Return an invitation."""
    return Invite(message.id, message.plan, unix_seconds(message.expires_at))


def event_of(message: audit_pb2.AuditEvent) -> AuditEvent:
    """Return an event of the audit log."""
    return AuditEvent(
        id=message.id,
        at=unix_seconds(message.at),
        actor=message.actor,
        address=message.address,
        action=message.action,
        account_id=message.account_id,
        target=message.target,
        details=dict(message.details),
    )


def _or_none(message: Message, field: str) -> float | None:
    return unix_seconds(getattr(message, field)) if message.HasField(field) else None
