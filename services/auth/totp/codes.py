"""Codes of authenticator apps (RFC 6238), and recovery codes."""

import base64
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

_SECRET_BYTES = 20
_DIGITS = 6
_STEP_SECONDS = 30
_SKEW_STEPS = 1
"""Steps by which the clock of an authenticator app may differ, before and after."""
_CODE = re.compile(r"[0-9]{6}")
_RECOVERY_CODE = re.compile(r"[A-Z2-7]{12}")
_RECOVERY_CODES = 10
_INPUT_CHARACTERS_MAX = 100
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret that auth shares with an authenticator app."""

    content: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The secret in Base32, to type into an app."""
        return base64.b32encode(self.content).decode()

    def url(self, account: str, issuer: str) -> str:
        """Return the URL for a QR code, with the names that the app shows."""
        return self._totp.get_provisioning_uri(account, issuer)

    def step_of(self, code: str, *, now: float) -> int | None:
        """Return the time step of a code, at most one step from now; None if the code is wrong."""
        current = int(now) // _STEP_SECONDS
        steps = range(current - _SKEW_STEPS, current + _SKEW_STEPS + 1)
        # All are computed, so that the time does not reveal which one matched.
        matching = [step for step in steps if hmac.compare_digest(self.code(step), code.encode())]
        return matching[-1] if matching else None

    def code(self, step: int) -> bytes:
        """Return the code of a time step."""
        return self._totp.generate(step * _STEP_SECONDS)

    @property
    def _totp(self) -> TOTP:
        # SHA-1 with six digits and 30 s is all that common apps support; HMAC does not need collision resistance.
        return TOTP(self.content, _DIGITS, SHA1(), _STEP_SECONDS)


def new_secret() -> Secret:
    """Return a random secret."""
    return Secret(secrets.token_bytes(_SECRET_BYTES))


def new_recovery_codes() -> Sequence[str]:
    """Return ten recovery codes like `ABCD-EFGH-IJKL`, of 60 bits each."""
    return ["-".join(_word() for _ in range(3)) for _ in range(_RECOVERY_CODES)]


def normalized(text: str) -> str:
    """Return what a user typed without blanks and hyphens, in upper case; empty if it cannot be a code."""
    if len(text) > _INPUT_CHARACTERS_MAX:
        return ""
    typed = re.sub(r"[\s-]", "", text).upper()
    if _CODE.fullmatch(typed):
        return typed
    recovery = typed.replace("0", "O").replace("1", "I").replace("8", "B")
    return recovery if _RECOVERY_CODE.fullmatch(recovery) else ""


def is_recovery_code(code: str) -> bool:
    """Return whether a normalized code is a recovery code."""
    return _RECOVERY_CODE.fullmatch(code) is not None


def _word() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(4))
