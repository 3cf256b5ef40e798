"""Queue of e-mails to send. It survives restarts and contains no secrets.

A queued e-mail has only a topic. Its text, including the one-time token, is generated when it is sent. So a stolen
database contains no valid token, and the text is up to date: an account deleted in the meantime gets nothing. Whether
an address has an account decides what is sent, not what is queued, so response times do not reveal it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from services.auth.audit import Actor
from services.common.ids import Kind, new_id
from services.common.runtime.clock import Clock, utc_now


class Topic(StrEnum):
    """Reasons for sending an e-mail."""

    SIGN_UP = "sign_up"
    """Sign-up. A new account gets a verification e-mail; the owner of an existing one gets a notice."""
    VERIFICATION = "verification"
    """Another verification e-mail was requested; only unverified accounts get one."""
    PASSWORD_RESET = "password_reset"
    """A password reset was requested; addresses without an account get nothing."""
    FAILED_LOG_INS = "failed_log_ins"
    """Many wrong passwords were tried on the account."""
    ALERT = "alert"
    """An alert about a limit or a key."""


@dataclass(frozen=True, slots=True)
class QueuedEmail:
    """An e-mail in the queue."""

    id: str
    topic: Topic
    to: str
    """Normalized address that the requester entered."""
    opened_account_id: str | None
    """Id of the account that this sign-up created; None if it created none, and for other topics."""
    by: Actor
    """Actor that requested the e-mail."""
    created_at: datetime
    tries: int = 0
    """Number of delivery attempts, including the current one."""
    alert_id: str | None = None
    """Id of the alert; None for other topics."""


class MailQueue(Protocol):
    """Interface of the e-mail queue. Methods raise `Unavailable` if the store cannot be reached."""

    async def add(self, email: QueuedEmail) -> None:
        """Add an e-mail to the queue. Also raises `Unavailable` if the queue is full."""

    async def due(self, now: datetime) -> bool:
        """Return whether any e-mail is due."""

    async def claim(self, *, count: int, now: datetime, until: datetime) -> Sequence[QueuedEmail]:
        """Claim at most `count` due e-mails. Other senders skip them until the time `until`, or until `put_back`."""

    async def put_back(self, email: QueuedEmail, *, next_try_at: datetime) -> None:
        """Return an undelivered e-mail to the queue, due at `next_try_at`."""

    async def remove(self, email: QueuedEmail) -> None:
        """Remove an e-mail that was sent or given up."""

    async def waiting(self) -> int:
        """Return the number of e-mails in the queue."""


def new_email(topic: Topic, to: str, *, by: Actor, clock: Clock, opened_account_id: str | None = None) -> QueuedEmail:
    """Return an e-mail to queue."""
    return QueuedEmail(new_id(Kind.EMAIL), topic, to, opened_account_id, by, utc_now(clock))
