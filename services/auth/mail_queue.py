"""The queue of e-mails: what is to be told to whom. It survives restarts, and holds no secret.

A queued e-mail names what it is about; its text, with the one-time token in it, is made when it is sent. So a stolen
database holds no token that works, and what is sent is true at that moment: an account that was deleted meanwhile gets
nothing. Whether an address has an account decides what is sent and not what is queued, so that nobody can tell from the
time that a request takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from services.auth.audit import Actor
from services.common.clock import Clock, utc_now
from services.common.ids import Kind, new_id


class Topic(StrEnum):
    """What an e-mail is about."""

    SIGN_UP = "sign_up"
    """Somebody signed up. A new account is asked to prove its address; of one that exists, its owner is told."""
    VERIFICATION = "verification"
    """Somebody asked again for proof of an address; only an account that lacks it gets an e-mail."""
    PASSWORD_RESET = "password_reset"
    """Somebody forgot a password; an address without an account gets nothing."""
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
