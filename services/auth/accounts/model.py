"""Accounts: who owns keys, told apart by e-mail address."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NewType, Protocol

from services.auth.accounts.addresses import normalised_email
from services.auth.audit import Actor
from services.auth.mail.queue import QueuedEmail
from services.common.ids import Kind, is_id, new_id

AccountId = NewType("AccountId", str)
"""Public id of an account, `acc_` and a ULID."""

FREE_PLAN = "free"
"""Name of the plan that every account starts on."""


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who owns keys. Times are aware, in UTC."""

    id: AccountId
    email: str
    """As `normalised_email` returns it; no two accounts share one. Empty when the account was deleted."""
    plan: str
    """Name of the plan, whose daily limit holds for keys without a limit of their own."""
    created_at: datetime
    email_verified_at: datetime | None = None
    """When its owner proved to read the e-mail; None means not yet."""
    deleted_at: datetime | None = None
    """When it was deleted; None means that it was not."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a log-in is checked against."""

    account: Account
    password_hash: str | None = field(repr=False)
    """None means that the account has no password and nobody can log in to it."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What a caller proved of an account, checked again in the transaction of the write that rests on it.

    Comparing a password takes tens of milliseconds, and a session is looked up before its handler starts. Until the
    write commits, another call may replace the password, end the session or delete the account; the store refuses the
    write then. The account must still exist in any case.
    """

    account_id: AccountId
    session_id: str = ""
    """Id of a session that must still be open; empty demands none."""
    password_hash: str | None = field(default=None, repr=False)
    """The stored hash that the password matched, which must still be the account's; None demands none. Hashes are
    salted, so every new password has another, even when its text is the same."""


@dataclass(frozen=True, slots=True)
class NewAccount:
    """An account to keep."""

    account: Account
    """With an invitation its plan is the invitation's."""
    password_hash: str | None = field(default=None, repr=False)
    """Hash of its password; None leaves it without one."""
    invite: str | None = field(default=None, repr=False)
    """Digest of the invitation to use up."""
    is_one_per_mailbox: bool = False
    """Whether another account of the same mailbox refuses it."""
    queued_email: QueuedEmail | None = None
    """Verification e-mail to queue in the same transaction; None queues none."""


class AccountStore(Protocol):
    """Where accounts are kept. Accounts are named by id or e-mail address; a deleted one by its id alone.

    Each change is audited in its own transaction. Each method raises `Unavailable` when the store cannot be reached,
    and `NotFound` when there is no such account or plan. A change that takes a `proof` raises `Unauthenticated` when
    its session has ended or the account was deleted, and `PermissionDenied` when the password is another one by then.
    """

    async def add(self, new: NewAccount, *, by: Actor) -> Account:
        """Keep a new account and return it.

        Raises:
            AlreadyExists: Its e-mail address, or its mailbox, has an account.
            InvalidRequest: The invitation is not good.
        """

    async def signed_up(self, address: str) -> Account | None:
        """Return the account with a normalised address, or else the one of the same mailbox; None without either."""

    async def get(self, reference: str) -> Account:
        """Read an account."""

    async def page(self, *, after: str, limit: int) -> Sequence[Account]:
        """Return at most `limit` accounts by id, from the one after the id `after`."""

    async def credentials(self, reference: str) -> Credentials | None:
        """Read what a log-in is checked against; None when there is no such account."""

    async def set_plan(self, reference: str, plan: str, *, by: Actor, at: datetime) -> Account:
        """Move an account to another plan."""

    async def set_password(self, proof: Proof, password_hash: str, *, by: Actor, at: datetime) -> None:
        """Replace the password and end all sessions but the one that the proof names."""

    async def note_failed_log_ins(self, account_id: AccountId, count: int, *, by: Actor, at: datetime) -> None:
        """Write into the audit log that so many wrong passwords were tried."""

    async def verify_email(self, digest: str, *, by: Actor, at: datetime) -> str:
        """Use a token up and note that its account's e-mail is read; return it. `InvalidRequest` if not good."""

    async def reset_password(self, digest: str, password_hash: str, *, by: Actor, at: datetime) -> Account:
        """Use a token up, replace the password, end all sessions; return the account. `InvalidRequest` if not good."""

    async def delete(self, reference: str, *, by: Actor, at: datetime, proof: Proof | None = None) -> Account:
        """Forget whose account it is, revoke its keys and end its sessions; a second time changes nothing.

        Operators delete without a `proof`.
        """


def open_account(email: str, *, now: datetime, plan: str = FREE_PLAN) -> Account:
    """Return a new account, not yet kept.

    Raises:
        InvalidRequest: The text is no e-mail address.
    """
    return Account(AccountId(new_id(Kind.ACCOUNT)), normalised_email(email), plan, now)


def checked_reference(text: str) -> str:
    """Return an account's id or e-mail address in the form in which the store compares it.

    Raises:
        InvalidRequest: The text is neither.
    """
    return text if is_id(text, Kind.ACCOUNT) else normalised_email(text)
