"""Conversion between domain objects and protobuf messages."""

from collections.abc import Iterable
from datetime import UTC, datetime

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from services.auth.accounts.model import Account
from services.auth.accounts.plans import Plan
from services.auth.audit import AuditEvent
from services.auth.keys.model import Key, KeyId
from services.auth.limits import LimitChanges, checked_plan_limits
from services.auth.sessions.log_in import LoggedIn
from services.auth.sessions.model import Session
from services.common.errors import InvalidRequest, NotFound
from services.common.ids import Kind, is_id
from services.common.limits import Limit
from services.common.rpc.limits import limit_from_proto, limit_to_proto
from stack.auth.v1 import accounts_pb2, audit_pb2, auth_pb2, keys_pb2, plans_pb2, sessions_pb2
from stack.common.v1 import limits_pb2

_PAGE_SIZE_DEFAULT = 100
_PAGE_SIZE_MAX = 1_000


def principal(key: Key) -> auth_pb2.Principal:
    """Return the principal of a key."""
    return auth_pb2.Principal(
        key_id=key.id,
        account_id=key.account_id,
        daily_limit=key.daily_limit,
        account_daily_limit=key.account_daily_limit,
        expires_at=timestamp(key.expires_at),
        models=key.models,
        limits=map(limit_to_proto, key.limits),
        weight=key.weight,
        quota_account_id=key.quota_account_id or "",
        key_name=key.name,
        plan=key.plan,
        deduplicate_retries=key.deduplicate_retries,
    )


def key(source: Key) -> keys_pb2.Key:
    """Return a key as a message."""
    return keys_pb2.Key(
        id=source.id,
        account_id=source.account_id,
        name=source.name,
        prefix=source.prefix,
        daily_limit=source.daily_limit,
        created_at=timestamp(source.created_at),
        revoked_at=timestamp(source.revoked_at),
        expires_at=timestamp(source.expires_at),
        models=source.models,
        replaced_by=source.replaced_by or "",
        limits=map(limit_to_proto, source.limits),
        quota_account_id=source.quota_account_id or "",
        deduplicate_retries=source.deduplicate_retries,
        paused_at=timestamp(source.paused_at),
        owner_daily_limit=source.owner_daily_limit,
        owner_limits=map(limit_to_proto, source.owner_limits),
    )


def account(source: Account) -> accounts_pb2.Account:
    """Return an account as a message."""
    return accounts_pb2.Account(
        id=source.id,
        email=source.email,
        plan=source.plan,
        created_at=timestamp(source.created_at),
        email_verified_at=timestamp(source.email_verified_at),
        deleted_at=timestamp(source.deleted_at),
        quota_account_id=source.quota_account_id or "",
        suspended_at=timestamp(source.suspended_at),
        operator_since=timestamp(source.operator_since),
    )


def plan(source: Plan) -> plans_pb2.Plan:
    """Return a plan as a message."""
    return plans_pb2.Plan(
        name=source.name,
        daily_limit=source.daily_limit,
        active_keys_max=source.active_keys_max,
        new_keys_per_day_max=source.new_keys_per_day_max,
        account_daily_limit=source.account_daily_limit,
        limits=map(limit_to_proto, source.limits),
        weight=source.weight,
    )


def session(source: Session, *, current_id: str = "") -> sessions_pb2.Session:
    """Return a session as a message; `current_id` is the id of the caller's session."""
    return sessions_pb2.Session(
        id=source.id,
        account=account(source.account),
        created_at=timestamp(source.created_at),
        expires_at=timestamp(source.expires_at),
        last_used_at=timestamp(source.last_used_at),
        address=source.address,
        is_current=source.id == current_id,
    )


def open_session(source: LoggedIn) -> sessions_pb2.OpenSession:
    """Return a new session as a message, with its token and the device token."""
    opened = source.opened
    return sessions_pb2.OpenSession(
        token=opened.token,
        session=session(opened.session, current_id=opened.session.id),
        device_token=source.device_token,
    )


def event(source: AuditEvent) -> audit_pb2.AuditEvent:
    """Return an audit event as a message."""
    return audit_pb2.AuditEvent(
        id=source.id,
        at=timestamp(source.at),
        actor=source.actor.name,
        address=source.actor.address,
        action=source.action,
        account_id=source.account_id,
        target=source.target,
        details=source.details,
    )


def limits(messages: Iterable[limits_pb2.Limit]) -> tuple[Limit, ...]:
    """Return the limits of messages.

    Raises:
        InvalidRequest: A message has no scope or unit, or ones that this version does not know, or is not a limit.
    """
    found = [limit_from_proto(message) for message in messages]
    if None in found:
        raise InvalidRequest(
            "A limit has an unknown scope, unit or window. Set them to values that this version of auth knows.",
            reason="invalid_limit",
        )
    return tuple(limit for limit in found if limit is not None)


def limit_changes(changed: Iterable[limits_pb2.Limit], removed: Iterable[limits_pb2.Limit]) -> LimitChanges | None:
    """Return changes of limits; None if there are none. Raises the exceptions of `limits` and `checked_plan_limits`."""
    to_set, to_remove = checked_plan_limits(limits(changed)), frozenset(limit.name for limit in limits(removed))
    return LimitChanges(to_set, to_remove) if to_set or to_remove else None


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Return an aware datetime as a protobuf timestamp; None stays None."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def moment(message: Message, field: str) -> datetime | None:
    """Return a timestamp field as an aware datetime in UTC, or None if it is absent.

    Raises:
        InvalidRequest: The time is not between the years 1 and 9999.
    """
    if not message.HasField(field):
        return None
    value = getattr(message, field)
    assert isinstance(value, Timestamp)
    try:
        return value.ToDatetime(UTC)
    except (ValueError, OverflowError) as exc:
        raise InvalidRequest(
            f"{field} is not a time between the years 1 and 9999. Send the seconds since 1970.", reason="invalid_time"
        ) from exc


def page_size(requested: int) -> int:
    """Return the number of items on a page; 0 means the default of 100.

    Raises:
        InvalidRequest: The number is negative or greater than 1,000.
    """
    if not 0 <= requested <= _PAGE_SIZE_MAX:
        raise InvalidRequest(
            f"page_size is {requested}. It must be 1 to {_PAGE_SIZE_MAX}, or 0 for the default.",
            reason="invalid_page_size",
        )
    return requested or _PAGE_SIZE_DEFAULT


def cursor(text: str, field: str, kind: Kind) -> str:
    """Return the id after which a page starts; empty means the first page.

    Raises:
        InvalidRequest: The text is not an id of this kind.
    """
    if text and not is_id(text, kind):
        raise InvalidRequest(
            f"{field} is not a valid id. Use the id of an item on the previous page: {kind}_….", reason="invalid_cursor"
        )
    return text


def session_id(text: str) -> str:
    """Return a session id.

    Raises:
        InvalidRequest: The text is not a session id.
    """
    if not is_id(text, Kind.SESSION):
        raise InvalidRequest("Not a session id. Session ids look like ses_01J….", reason="invalid_session_id")
    return text


def identity_id(text: str) -> str:
    """Return an identity id.

    Raises:
        InvalidRequest: The text is not an identity id.
    """
    if not is_id(text, Kind.IDENTITY):
        raise InvalidRequest("Not an identity id. Identity ids look like idn_01J….", reason="invalid_identity_id")
    return text


def key_id(text: str) -> KeyId:
    """Return a key id. The check is needed because databases do not accept every text.

    Raises:
        NotFound: The text is not a key id.
    """
    if not is_id(text, Kind.KEY):
        raise NotFound("Not a key id. Key ids look like key_01J….", reason="key_not_found")
    return KeyId(text)
