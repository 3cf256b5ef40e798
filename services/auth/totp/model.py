"""TOTP of accounts: data model and storage interface."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from services.auth.accounts.model import AccountId, Proof
from services.auth.audit import Actor
from services.common.errors import FailedPrecondition, PermissionDenied


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The stored TOTP secret of an account."""

    id: str
    """`otp_` and a ULID; a new secret has a new one."""
    account_id: AccountId
    sealed: str = field(repr=False)
    """The encrypted secret."""
    created_at: datetime
    is_enabled: bool
    """Whether log-ins need a code."""


class TOTPStore(Protocol):
    """Interface for storing TOTP secrets and digests of recovery codes.

    Each change writes an audit event in its own transaction, except `enrol` and `use_step`. Methods raise `Unavailable`
    if the store cannot be reached. Changes with a `proof` raise the exceptions of `AccountStore` for it.
    """

    async def find(self, account_id: AccountId) -> Enrolment | None:
        """Return the enrolment of an account, enabled or not; None without one."""

    async def recovery_codes(self, account_id: AccountId) -> int:
        """Return the number of unused recovery codes."""

    async def enrol(self, proof: Proof, enrolment: Enrolment) -> None:
        """Store an enrolment that is not enabled, in place of an earlier one.

        Raises:
            FailedPrecondition: The account has TOTP.
        """

    async def enable(
        self, proof: Proof, enrolment: Enrolment, step: int, digests: Sequence[str], *, by: Actor, at: datetime
    ) -> None:
        """Enable an enrolment, use up a time step, store digests of recovery codes and end all other sessions.

        Raises:
            FailedPrecondition: The enrolment was replaced or enabled in the meantime.
        """

    async def use_step(self, enrolment: Enrolment, step: int, *, sealed: str) -> bool:
        """Use up a time step and all before, and store the secret as encrypted now. Returns False if it was used."""

    async def use_recovery_code(
        self, account_id: AccountId, digests: Sequence[str], *, by: Actor, at: datetime
    ) -> bool:
        """Delete a recovery code by any of its digests. Returns False if there is none."""

    async def replace_recovery_codes(self, proof: Proof, digests: Sequence[str], *, by: Actor, at: datetime) -> None:
        """Replace all recovery codes of an account that has TOTP."""

    async def disable(self, proof: Proof, *, by: Actor, at: datetime) -> None:
        """Remove the secret and the recovery codes."""

    async def reset(self, account_id: AccountId, *, by: Actor, at: datetime) -> None:
        """Remove the secret and the recovery codes for an operator."""


def code_wrong() -> PermissionDenied:
    """Return the error for a code that is wrong or was used."""
    return PermissionDenied(
        "Incorrect code, or one that was used already. Wait for the next code of your app, or enter a recovery code.",
        reason="code_wrong",
    )


def not_enrolled() -> FailedPrecondition:
    """Return the error for a code without an enrolment."""
    return FailedPrecondition("There is no secret to confirm. Start again.", reason="totp_not_enrolled")


def already_enabled() -> FailedPrecondition:
    """Return the error for an enrolment of an account that has TOTP."""
    return FailedPrecondition(
        "Your account has a second factor already. Turn it off first to use another app.", reason="totp_enabled"
    )
