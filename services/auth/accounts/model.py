"""Accounts: data model and storage interface."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NewType, Protocol

from services.auth.accounts.addresses import normalized_email
from services.auth.audit import Actor
from services.auth.identities.provider import ProviderIdentity
from services.auth.mail.queue import QueuedEmail
from services.common.errors import InvalidRequest
from services.common.ids import Kind, is_id, new_id

AccountId = NewType("AccountId", str)
"""Public id of an account: `acc_` and a ULID."""

_REASON_CHARACTERS_MAX = 200

FREE_PLAN = "free"
"""Name of the default plan of new accounts."""


@dataclass(frozen=True, slots=True)
class Account:
    """An owner of API keys. Times are aware, in UTC."""

    id: AccountId
    email: str
    """Unique address, as `normalized_email` returns it. Empty if the account was deleted."""
    plan: str
    """Name of the plan. Its daily limit applies to keys without their own limit."""
    created_at: datetime
    email_verified_at: datetime | None = None
    """Time of e-mail verification; None means not verified."""
    deleted_at: datetime | None = None
    """Time of deletion; None means not deleted."""
    quota_account_id: AccountId | None = None
    """Id under which quota counts the account, if it continues the counts of a deleted one; None means its own id."""
    suspended_at: datetime | None = None
    """Time of suspension by an operator; None means not suspended."""
    operator_since: datetime | None = None
    """Time at which the account got the role of operators; None if it does not have it."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """An account and its password hash."""

    account: Account
    password_hash: str | None = field(repr=False)
    """None means that the account has no password, so that its owner can only log in with an identity."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Evidence of authentication, checked again in the transaction of the write that depends on it.

    Checking a password takes tens of milliseconds, and the session is read before the handler starts. Before the write
    commits, another call may change the password, end the session or delete the account. The store then rejects the
    write. The account must exist in any case.
    """

    account_id: AccountId
    session_id: str = ""
    """Id of a session that must still be open; empty skips this check."""
    password_hash: str | None = field(default=None, repr=False)
    """The stored hash that the password matched. It must be unchanged; None skips this check. Hashes are salted, so
    setting the same password again also changes the hash."""
    identity_id: str = ""
    """Id of the identity with which the owner logged in, which must still be linked; empty skips this check."""
    totp_id: str = ""
    """Id of the TOTP enrolment whose code was checked; empty for an account without TOTP. Checked for a new session."""


@dataclass(frozen=True, slots=True)
class NewAccount:
    """An account to store."""

    account: Account
    """The account. An invitation overrides its plan."""
    password_hash: str | None = field(default=None, repr=False)
    """Hash of the password; None creates an account without one."""
    invite: str | None = field(default=None, repr=False)
    """Digest of the invitation to redeem; None for none."""
    is_one_per_mailbox: bool = False
    """Whether to reject the account if the mailbox already has one."""
    queued_email: QueuedEmail | None = None
    """Verification e-mail to queue in the same transaction; None queues none."""
    identity: ProviderIdentity | None = None
    """Identity to link in the same transaction; None links none."""


class AccountStore(Protocol):
    """Interface for storing accounts. A reference is an id or an e-mail address; for deleted accounts, only an id.

    Each change writes an audit event in its own transaction. Methods raise `Unavailable` if the store cannot be
    reached, and `NotFound` if there is no such account or plan. A change with a `proof` raises `Unauthenticated` if the
    session has ended or the account was deleted, and `PermissionDenied` if the password was changed in the meantime.
    """

    async def add(self, new: NewAccount, *, by: Actor) -> Account:
        """Store a new account and return it. It continues the counts of a deleted account of its mailbox.

        Raises:
            AlreadyExists: The e-mail address, the mailbox or the identity already has an account.
            InvalidRequest: The invitation is invalid.
        """

    async def find_by_mailbox(self, address: str) -> Account | None:
        """Return the account with a normalized address, otherwise an account of the same mailbox, otherwise None."""

    async def get(self, reference: str) -> Account:
        """Return an account. Deleted accounts are included."""

    async def page(self, *, after: str, limit: int) -> Sequence[Account]:
        """Return at most `limit` accounts in id order, starting after the id `after`; empty starts at the first."""

    async def credentials(self, reference: str) -> Credentials | None:
        """Return an account with its password hash, or None if there is no such account."""

    async def set_plan(self, reference: str, plan: str, *, by: Actor, at: datetime) -> Account:
        """Move an account to another plan."""

    async def set_password(self, proof: Proof, password_hash: str, *, by: Actor, at: datetime) -> None:
        """Replace the password and end all sessions except the proof's."""

    async def note_failed_log_ins(self, account_id: AccountId, count: int, *, by: Actor, at: datetime) -> None:
        """Record `count` failed log-ins in the audit log."""

    async def verify_email(self, digest: str, *, by: Actor, at: datetime) -> str:
        """Redeem a token, mark the e-mail as verified and return it. Raises `InvalidRequest` for an invalid token."""

    async def reset_password(self, digest: str, password_hash: str, *, by: Actor, at: datetime) -> Account:
        """Redeem a token, replace the password, verify the e-mail and end all sessions; return the account.

        If the e-mail was not verified before, also unlink all identities: someone else may have created the account.

        Raises:
            InvalidRequest: The token is invalid.
        """

    async def suspend(self, reference: str, *, reason: str = "", by: Actor, at: datetime) -> Account:
        """Suspend an account: deny its keys and end its sessions. Idempotent.

        Raises:
            FailedPrecondition: The account has the role of operators.
        """

    async def resume(self, reference: str, *, by: Actor, at: datetime) -> Account:
        """End a suspension. Idempotent."""

    async def delete(self, reference: str, *, by: Actor, at: datetime, proof: Proof | None = None) -> Account:
        """Erase an account's personal data, revoke its keys and end its sessions. Idempotent.

        Operators delete without a `proof`.
        """


def open_account(email: str, *, now: datetime, plan: str = FREE_PLAN) -> Account:
    """Return a new account that is not stored yet.

    Raises:
        InvalidRequest: The text is not an e-mail address.
    """
    return Account(AccountId(new_id(Kind.ACCOUNT)), normalized_email(email), plan, now)


def checked_reason(text: str) -> str:
    """Return the reason of a suspension, stripped of whitespace.

    Raises:
        InvalidRequest: It is too long, or has characters that cannot be shown.
    """
    reason = text.strip()
    if len(reason) > _REASON_CHARACTERS_MAX or not reason.isprintable():
        raise InvalidRequest(
            f"The reason must be one line of at most {_REASON_CHARACTERS_MAX} characters. Shorten it.",
            reason="invalid_reason",
        )
    return reason


def checked_reference(text: str) -> str:
    """Return an account id unchanged, or an e-mail address in normalized form.

    Raises:
        InvalidRequest: The text is neither an account id nor an e-mail address.
    """
    return text if is_id(text, Kind.ACCOUNT) else normalized_email(text)
