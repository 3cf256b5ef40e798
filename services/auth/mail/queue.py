"""Queue of e-mails to send. It survives restarts and contains no secrets.

A queued e-mail names what it is about; its text, with the one-time token in it, is made when it is sent. So a stolen
database holds no token that works, and what is sent is true at that moment: an account that was deleted meanwhile gets
nothing. Whether an address has an account decides what is sent, not what is queued, so response times do not reveal it.
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
    """What an e-mail is about."""

    SIGN_UP = "sign_up"
    """Sign-up. A new account gets a verification e-mail; the owner of an existing one gets a notice."""
    VERIFICATION = "verification"
    """Another verification e-mail was requested; only unverified accounts get one."""
    PASSWORD_RESET = "password_reset"
    """A password reset was requested; addresses without an account get nothing."""
    FAILED_LOG_INS = "failed_log_ins"
    """Many wrong passwords were tried."""


@dataclass(frozen=True, slots=True)
class QueuedEmail:
    """An e-mail to send."""

    id: str
    topic: Topic
    to: str
    """Normalised address that somebody named."""
    opened_account_id: str | None
    """The account that this sign-up opened; None where it opened none, and for other topics."""
    by: Actor
    """Who asked for it, and from where."""
    created_at: datetime
    tries: int = 0
    """How often it was tried to be sent, this time included."""


class MailQueue(Protocol):
    """Where e-mails wait. Each method raises `Unavailable` when the store cannot be reached."""

    async def add(self, email: QueuedEmail) -> None:
        """Keep an e-mail to send; raises `Unavailable` too when the queue is full."""

    async def due(self, now: datetime) -> bool:
        """Whether an e-mail is to be sent now."""

    async def claim(self, *, count: int, now: datetime, until: datetime) -> Sequence[QueuedEmail]:
        """Take at most `count` that are due; other senders leave them alone `until` then, or until `put_back`."""

    async def put_back(self, email: QueuedEmail, *, next_try_at: datetime) -> None:
        """Keep one that could not be sent, to try again then."""

    async def remove(self, email: QueuedEmail) -> None:
        """Forget one that was sent or given up."""

    async def waiting(self) -> int:
        """Return how many wait."""


def new_email(topic: Topic, to: str, *, by: Actor, clock: Clock, opened_account_id: str | None = None) -> QueuedEmail:
    """Return an e-mail to queue."""
    return QueuedEmail(new_id(Kind.EMAIL), topic, to, opened_account_id, by, utc_now(clock))
