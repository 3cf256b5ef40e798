"""The audit log: every change of an account, key, plan or session, recorded in the transaction of the change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NewType, Protocol

from services.common.ids import Kind, is_id, new_id

EventId = NewType("EventId", str)
"""Id of an event: `aud_` and a ULID, so ids sort by time."""

OWNER = "owner"
"""Actor name of the account owner, authenticated by session, password or e-mailed token."""
WEBHOOK = "webhook"
"""Actor name of a payment provider, authenticated by its signature."""
OPERATOR_PREFIX = "operator:"
"""Beginning of the names of operators. After it: the id of the account with which the operator logged in, or else the
name that an operator with the admin token gave."""
UNAUTHENTICATED = "unknown"
"""Actor name of an unauthenticated caller, for example after a wrong password."""
_NAME_CHARACTERS_MAX = 60
_ADDRESS_CHARACTERS_MAX = 64


@dataclass(frozen=True, slots=True)
class Actor:
    """The origin of a change: who made it, and from which address."""

    name: str
    """`owner`, `webhook`, `unknown`, or `operator:` followed by the operator's account or name."""
    address: str = ""
    """Network address; empty if unknown."""


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """An entry of the audit log."""

    id: EventId
    at: datetime
    actor: Actor
    action: str
    """The type of change, such as `key.created`."""
    account_id: str
    """Id of the affected account; empty for plans and invitations."""
    target: str
    """Id or name of the changed object."""
    details: Mapping[str, str]
    """Details of the change. Never contains a secret."""


class AuditLog(Protocol):
    """Interface for reading the audit log. Methods raise `Unavailable` if the store cannot be reached."""

    async def events(
        self, *, account_id: str, before: str, limit: int, actor: str = "", action: str = ""
    ) -> Sequence[AuditEvent]:
        """Return events, newest first.

        Args:
            account_id: Return only events of this account; empty means all accounts.
            actor: Return only events by this actor; `operator:` means any operator, and empty any actor.
            action: Return only events of this action, or of this group, such as `key`; empty means all actions.
            before: Return only events older than the event with this id; empty starts at the newest.
            limit: Maximum number of events.
        """


def owner(address: str) -> Actor:
    """Return the actor for an account owner at a network address."""
    return Actor(OWNER, _sanitize(address, _ADDRESS_CHARACTERS_MAX))


def webhook(address: str) -> Actor:
    """Return the actor for a payment provider at a network address."""
    return Actor(WEBHOOK, _sanitize(address, _ADDRESS_CHARACTERS_MAX))


def operator(name: str, address: str) -> Actor:
    """Return the actor for an operator with the admin token. The name is unverified, because they share the token.

    Account ids are the names of operators whom auth has verified, so they are not accepted here.
    """
    named = _sanitize(name, _NAME_CHARACTERS_MAX).strip()  # A blank at an end would not be seen.
    named = "unnamed" if not named or is_id(named, Kind.ACCOUNT) else named
    return Actor(f"{OPERATOR_PREFIX}{named}", _sanitize(address, _ADDRESS_CHARACTERS_MAX))


def operator_account(account_id: str, address: str) -> Actor:
    """Return the actor for an operator who logged in to the operators' console, which verified the account."""
    return Actor(f"{OPERATOR_PREFIX}{account_id}", _sanitize(address, _ADDRESS_CHARACTERS_MAX))


def new_event_id() -> EventId:
    """Return a new unique event id."""
    return EventId(new_id(Kind.AUDIT_EVENT))


def _sanitize(text: str, characters_max: int) -> str:
    """Remove non-printable characters and truncate. Callers control this text, and terminals act on control codes."""
    return "".join(character for character in text if character.isprintable())[:characters_max]
