"""The audit log: every change of an account, key, plan or session, written in the transaction that makes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NewType, Protocol

from services.common.ids import Kind, new_id

EventId = NewType("EventId", str)
"""Id of an event, `aud_` and a ULID, so that ids sort by time."""

OWNER = "owner"
"""The actor that is the account's own owner, known by session, password or mailed token."""
STRANGER = "unknown"
"""Actor that has not authenticated, for example when a password is wrong."""
_NAME_CHARACTERS_MAX = 60
_ADDRESS_CHARACTERS_MAX = 64


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something, and from where."""

    name: str
    """`owner`, `unknown`, or `operator:` and the name that the operator gave."""
    address: str = ""
    """Network address; empty when it is not known."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change."""

    id: EventId
    at: datetime
    actor: Actor
    action: str
    """What was done, such as `key.created`."""
    account_id: str
    """The account it belongs to; empty for plans and invitations."""
    target: str
    """Id or name of what was changed."""
    details: Mapping[str, str]
    """Facts about the change; never a secret."""


class AuditLog(Protocol):
    """Where events can be read. Each method raises `Unavailable` when the store cannot be reached."""

    async def events(self, *, account_id: str, before: str, limit: int) -> Sequence[Event]:
        """Return events, newest first.

        Args:
            account_id: Only this account's; empty means all.
            before: Only those older than the event with this id; empty begins with the newest.
            limit: At most so many.
        """


def owner(address: str) -> Actor:
    """Return the actor for somebody who acts on an own account."""
    return Actor(OWNER, _plain(address, _ADDRESS_CHARACTERS_MAX))


def operator(name: str, address: str) -> Actor:
    """Return the actor for an operator; the name is what that operator says, since they share one token."""
    named = _plain(name, _NAME_CHARACTERS_MAX) or "unnamed"
    return Actor(f"operator:{named}", _plain(address, _ADDRESS_CHARACTERS_MAX))


def new_event_id() -> EventId:
    """Return an id that was never used."""
    return EventId(new_id(Kind.AUDIT_EVENT))


def _plain(text: str, characters_max: int) -> str:
    """Return text as the log can keep it: callers say what they like, and terminals act on control characters."""
    return "".join(character for character in text if character.isprintable())[:characters_max]
