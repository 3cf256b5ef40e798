"""Operators: storage interface, and the errors of their log-ins."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.auth.accounts.model import Account
from services.auth.audit import Actor
from services.common.errors import FailedPrecondition, PermissionDenied


@dataclass(frozen=True, slots=True)
class Operator:
    """An account with the role of operators."""

    account: Account
    has_totp: bool


class OperatorStore(Protocol):
    """Interface for storing the role. Each change writes an audit event in its own transaction.

    A reference is an id or an e-mail address. Methods raise `Unavailable` if the store cannot be reached, and
    `NotFound` if there is no such account.
    """

    async def add(self, reference: str, *, by: Actor, at: datetime) -> Account:
        """Give an account the role. Idempotent.

        Raises:
            FailedPrecondition: The account is suspended.
        """

    async def remove(self, reference: str, *, by: Actor, at: datetime) -> Account:
        """Take the role away, and end the account's sessions in the operators' console. Idempotent."""

    async def operators(self) -> Sequence[Operator]:
        """Return all operators, ordered by id."""


def not_operator() -> PermissionDenied:
    """Return the error for the log-in of an owner whose account does not have the role."""
    return PermissionDenied(
        "This account does not have the role of operators. Add it on the server: stackctl operators add ACCOUNT",
        reason="not_operator",
    )


def totp_required() -> FailedPrecondition:
    """Return the error for the log-in of an operator without TOTP."""
    return FailedPrecondition(
        "Operators need a second factor. Log in to the users' console, turn it on under Account, Log-in methods, and "
        "come back.",
        reason="totp_required",
    )
