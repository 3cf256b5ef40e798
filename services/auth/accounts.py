"""Accounts: who owns keys, told apart by e-mail address."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import NewType, Protocol

from ulid import ULID

from services.common.errors import InvalidRequest

AccountId = NewType("AccountId", str)
"""Public id of an account, `acc_` and a ULID."""

FREE_PLAN = "free"
"""Name of the plan that every account starts on."""

_EMAIL_CHARACTERS_MAX = 254  # RFC 5321: a path of 256 characters with its two brackets.
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s.]+(\.[^@\s.]+)+")


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who owns keys."""

    id: AccountId
    email: str
    """Lower case; no two accounts share one."""
    plan: str
    """Name of the plan, whose daily limit holds for keys without a limit of their own."""
    created_at: datetime
    """Aware, in UTC."""


class AccountStore(Protocol):
    """Where accounts are kept. Each method raises `Unavailable` when the store cannot be reached."""

    async def add(self, account: Account) -> None:
        """Keep a new account.

        Raises:
            AlreadyExists: Its e-mail address has an account.
        """


def open_account(email: str, *, now: datetime) -> Account:
    """Return a new account on the free plan, not yet kept.

    Raises:
        InvalidRequest: The text is no e-mail address.
    """
    return Account(AccountId(f"acc_{ULID()}"), normalised_email(email), FREE_PLAN, now)


def normalised_email(text: str) -> str:
    """Return an e-mail address in the one form in which it is kept and compared.

    The check is of shape only: that mail arrives there, nothing but mail can tell.

    Raises:
        InvalidRequest: The text is no e-mail address.
    """
    email = text.strip().lower()
    # Unprintable characters are refused because Postgres cannot keep a NUL and terminals act on the others.
    if len(email) > _EMAIL_CHARACTERS_MAX or not email.isprintable() or not _EMAIL.fullmatch(email):
        raise InvalidRequest("that is no e-mail address; write one such as ada@example.com", reason="invalid_email")
    return email
