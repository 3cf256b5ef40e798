"""The nouns as protobuf messages."""

from datetime import UTC, datetime

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from services.auth.accounts.model import Account
from services.auth.accounts.plans import Plan
from services.auth.audit import Event
from services.auth.keys.model import Key, KeyId
from services.auth.sessions.log_in import LoggedIn
from services.auth.sessions.model import Session
from services.common.errors import InvalidRequest, NotFound
from services.common.ids import Kind, is_id
from stack.auth.v1 import accounts_pb2, audit_pb2, auth_pb2, keys_pb2, plans_pb2, sessions_pb2

_PAGE = 100
_PAGE_MAX = 1_000


def principal(key: Key) -> auth_pb2.Principal:
    """Return who a key stands for."""
    return auth_pb2.Principal(
        key_id=key.id,
        account_id=key.account_id,
        daily_limit=key.daily_limit,
        expires_at=timestamp(key.expires_at),
        models=key.models,
    )


def key(noun: Key) -> keys_pb2.Key:
    """Return a key."""
    return keys_pb2.Key(
        id=noun.id,
        account_id=noun.account_id,
        name=noun.name,
        prefix=noun.prefix,
        daily_limit=noun.daily_limit,
        created_at=timestamp(noun.created_at),
        revoked_at=timestamp(noun.revoked_at),
        expires_at=timestamp(noun.expires_at),
        models=noun.models,
        replaced_by=noun.replaced_by or "",
    )


def account(noun: Account) -> accounts_pb2.Account:
    """Return an account."""
    return accounts_pb2.Account(
        id=noun.id,
        email=noun.email,
        plan=noun.plan,
        created_at=timestamp(noun.created_at),
        email_verified_at=timestamp(noun.email_verified_at),
        deleted_at=timestamp(noun.deleted_at),
    )


def plan(noun: Plan) -> plans_pb2.Plan:
    """Return a plan."""
    return plans_pb2.Plan(
        name=noun.name,
        daily_limit=noun.daily_limit,
        active_keys_max=noun.active_keys_max,
        new_keys_per_day_max=noun.new_keys_per_day_max,
    )


def session(noun: Session, *, current_id: str = "") -> sessions_pb2.Session:
    """Return a session; `current_id` is the id of the one that asks."""
    return sessions_pb2.Session(
        id=noun.id,
        account=account(noun.account),
        created_at=timestamp(noun.created_at),
        expires_at=timestamp(noun.expires_at),
        last_used_at=timestamp(noun.last_used_at),
        address=noun.address,
        is_current=noun.id == current_id,
    )


def open_session(noun: LoggedIn) -> sessions_pb2.OpenSession:
    """Return a session with its token, and the device's."""
    opened = noun.opened
    return sessions_pb2.OpenSession(
        token=opened.token,
        session=session(opened.session, current_id=opened.session.id),
        device_token=noun.device_token,
    )


def event(noun: Event) -> audit_pb2.AuditEvent:
    """Return an event of the audit log."""
    return audit_pb2.AuditEvent(
        id=noun.id,
        at=timestamp(noun.at),
        actor=noun.actor.name,
        address=noun.actor.address,
        action=noun.action,
        account_id=noun.account_id,
        target=noun.target,
        details=noun.details,
    )


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Return an aware time as the contract writes it; None stays absent."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def moment(message: Message, field: str) -> datetime | None:
    """Return a time field as an aware time in UTC; None when it is absent.

    Raises:
        InvalidRequest: It is no time between the years 1 and 9999.
    """
    if not message.HasField(field):
        return None
    value = getattr(message, field)
    assert isinstance(value, Timestamp)
    try:
        return value.ToDatetime(UTC)
    except (ValueError, OverflowError) as exc:
        raise InvalidRequest(f"{field} is no time; give seconds since 1970", reason="invalid_time") from exc


def page_size(asked: int) -> int:
    """Return how many items a page is to have; 0 asks for 100.

    Raises:
        InvalidRequest: It is negative or more than 1,000.
    """
    if not 0 <= asked <= _PAGE_MAX:
        raise InvalidRequest(f"page_size is 1 to {_PAGE_MAX}, not {asked}", reason="invalid_page_size")
    return asked or _PAGE


def cursor(text: str, field: str, kind: Kind) -> str:
    """Return the id that a page continues from; empty begins at the beginning.

    Raises:
        InvalidRequest: It is no id of this kind.
    """
    if text and not is_id(text, kind):
        raise InvalidRequest(f"{field} must be the id of an item of the page before: {kind}_…", reason="invalid_cursor")
    return text


def session_id(text: str) -> str:
    """Return the id of a session.

    Raises:
        InvalidRequest: No session can have this id.
    """
    if not is_id(text, Kind.SESSION):
        raise InvalidRequest("That is no session's id. Ids look like ses_01J…", reason="invalid_session_id")
    return text


def key_id(text: str) -> KeyId:
    """Return the id of a key, if it can be one: a database does not take every text.

    Raises:
        NotFound: No key can have this id.
    """
    if not is_id(text, Kind.KEY):
        raise NotFound("That is no key's id. Ids look like key_01J…", reason="key_not_found")
    return KeyId(text)
