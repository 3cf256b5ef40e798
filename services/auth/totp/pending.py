"""Pending log-ins: the password or an identity was proved, and the code is missing. They are no sessions."""

import hmac
import re
import secrets
from dataclasses import dataclass, field

from services.auth.accounts.model import AccountId, Proof
from services.auth.keys.pepper import Pepper
from services.common.errors import Unauthenticated
from services.common.runtime.clock import Clock

_SECONDS_MAX = 300
_FINGERPRINT_CHARACTERS = 16
OWNER_PREFIX = "pnd_stk_"
"""Of log-ins to the users' console."""
OPERATOR_PREFIX = "pno_stk_"
"""Of log-ins to the operators' console, which require a password."""
_TOKEN = re.compile(
    r"[a-z]{3}_stk_(acc_[0-9A-Z]{26})\.(|idn_[0-9A-Z]{26})\.([0-9a-f]{16})\.([0-9]{1,12})\.[0-9a-f]{32}\.([0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class PendingLogIn:
    """A log-in that needs a code."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Pending:
    account_id: AccountId
    identity_id: str
    fingerprint: str


class PendingLogIns:
    """Creates and checks the tokens of pending log-ins. They have a MAC under the pepper, and are not stored."""

    def __init__(self, pepper: Pepper, clock: Clock, *, prefix: str = OWNER_PREFIX) -> None:
        """Only tokens with `prefix` are accepted, so that a log-in is completed at the console that started it."""
        self._pepper = pepper
        self._clock = clock
        self._prefix = prefix

    def start(self, proof: Proof, password_hash: str | None) -> PendingLogIn:
        """Return a pending log-in for the account of a proof, valid for five minutes and for this password."""
        ends_at = int(self._clock.now()) + _SECONDS_MAX
        fingerprint = self._fingerprint(proof.account_id, password_hash)
        head = f"{self._prefix}{proof.account_id}.{proof.identity_id}.{fingerprint}.{ends_at}.{secrets.token_hex(16)}"
        return PendingLogIn(f"{head}.{self._pepper.digest(f'pending log-in {head}')}")

    def account_of(self, token: str) -> AccountId:
        """Return the account of a token.

        Raises:
            Unauthenticated: The token is invalid or has expired.
        """
        return self._read(token).account_id

    def proof(self, token: str, password_hash: str | None) -> Proof:
        """Return what was proved before the code.

        Raises:
            Unauthenticated: The token is invalid or has expired, or the password has changed since.
        """
        pending = self._read(token)
        if not hmac.compare_digest(self._fingerprint(pending.account_id, password_hash), pending.fingerprint):
            raise log_in_expired()
        return Proof(pending.account_id, password_hash=password_hash, identity_id=pending.identity_id)

    def _read(self, token: str) -> _Pending:
        match = _TOKEN.fullmatch(token) if token.startswith(self._prefix) else None
        head = token.rpartition(".")[0]
        if match is None or not hmac.compare_digest(self._pepper.digest(f"pending log-in {head}"), match[5]):
            raise log_in_expired()
        if not 0 < int(match[4]) - self._clock.now() <= _SECONDS_MAX:
            raise log_in_expired()
        return _Pending(AccountId(match[1]), match[2], match[3])

    def _fingerprint(self, account_id: str, password_hash: str | None) -> str:
        return self._pepper.digest(f"pending log-in {account_id} {password_hash}")[:_FINGERPRINT_CHARACTERS]


def log_in_expired() -> Unauthenticated:
    """Return the error for a pending log-in that cannot be completed."""
    return Unauthenticated("This log-in took longer than five minutes. Log in again.", reason="log_in_expired")
