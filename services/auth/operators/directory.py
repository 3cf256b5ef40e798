"""What operators look up about accounts: data model and storage interface."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from services.auth.accounts.model import Account
from services.common.errors import InvalidRequest

_TEXT_CHARACTERS_MAX = 254


class AccountState(StrEnum):
    """What becomes of an account's requests."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class AccountSearch:
    """Which accounts to return. Empty values do not filter."""

    text: str = ""
    """Part of the e-mail address in lower case, or a whole id."""
    plan: str = ""
    state: AccountState | None = None
    ids: Sequence[str] = ()
    before: str = ""
    """Only accounts that are older than the one with this id."""


class AccountDirectory(Protocol):
    """Interface for reading accounts of everyone. Methods raise `Unavailable` if the store cannot be reached."""

    async def search(self, wanted: AccountSearch, *, limit: int) -> Sequence[Account]:
        """Return accounts, newest first."""

    async def accounts_by_plan(self) -> Mapping[str, int]:
        """Return the number of accounts of each plan, without deleted ones; plans without accounts are left out."""


def checked_text(text: str) -> str:
    """Return a text to search for, in the form in which addresses are stored.

    Raises:
        InvalidRequest: It is too long, or has characters that no address has.
    """
    wanted = text.strip()
    if len(wanted) > _TEXT_CHARACTERS_MAX or not wanted.isprintable():
        raise InvalidRequest(
            f"Search for at most {_TEXT_CHARACTERS_MAX} printable characters of an e-mail address, or for an id.",
            reason="invalid_search",
        )
    return wanted
