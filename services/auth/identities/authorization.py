"""Authorization requests: what binds the answer of an identity provider to the browser that asked.

The browser keeps a token in a cookie. The OAuth state, the nonce and the PKCE code verifier are HMACs of it under the
pepper. Auth stores nothing, so that requests of anonymous visitors cost no write, and someone who sees the URLs of a
log-in, with the state and the code, cannot complete it without the cookie. A code works once at the provider.
"""

import hmac
import re
import secrets
from dataclasses import dataclass, field

from services.auth.keys.pepper import Pepper
from services.common.errors import PermissionDenied
from services.common.runtime.clock import Clock

_SECONDS_MAX = 600
_TOKEN = re.compile(r"oas_stk_(login|ses_[0-9A-Z]{26})\.([a-z]{1,10})\.([0-9]{1,12})\.[0-9a-f]{32}\.([0-9a-f]{64})")
_LOG_IN = "login"


@dataclass(frozen=True, slots=True)
class Authorization:
    """An authorization request (RFC 6749, 4.1.1)."""

    token: str = field(repr=False)
    """Value of the state cookie."""
    state: str = field(repr=False)
    nonce: str = field(repr=False)
    code_verifier: str = field(repr=False)
    """Secret of PKCE (RFC 7636), which only auth and the provider's token endpoint see."""


@dataclass(frozen=True, slots=True)
class AuthorizationAnswer:
    """What the provider sent to the redirect URI, with the browser's cookie."""

    provider: str
    state_token: str = field(repr=False)
    state: str = field(repr=False)
    code: str = field(repr=False)
    issuer: str
    """Parameter `iss` (RFC 9207); empty if absent."""


class Authorizations:
    """Starts authorization requests and checks their answers."""

    def __init__(self, pepper: Pepper, clock: Clock) -> None:
        self._pepper = pepper
        self._clock = clock

    def start(self, provider: str, *, session_id: str = "") -> Authorization:
        """Return a new request, valid for ten minutes. One that links an identity belongs to the session of its owner.

        Args:
            provider: Name of the provider.
            session_id: Session whose account gets the identity; empty for a log-in.
        """
        ends_at = int(self._clock.now()) + _SECONDS_MAX
        head = f"oas_stk_{session_id or _LOG_IN}.{provider}.{ends_at}.{secrets.token_hex(16)}"
        return self._authorization(f"{head}.{self._mac(head)}")

    def check(self, answer: AuthorizationAnswer, *, session_id: str = "") -> Authorization:
        """Return the request of an answer.

        Raises:
            PermissionDenied: The answer belongs to another browser, provider or session, or came too late.
        """
        match = _TOKEN.fullmatch(answer.state_token)
        if match is None or not hmac.compare_digest(self._mac(answer.state_token.rpartition(".")[0]), match[4]):
            raise identity_rejected()
        is_late = not 0 < int(match[3]) - self._clock.now() <= _SECONDS_MAX
        if is_late or (match[1], match[2]) != (session_id or _LOG_IN, answer.provider):
            raise identity_rejected()
        authorization = self._authorization(answer.state_token)
        if not hmac.compare_digest(authorization.state.encode(), answer.state.encode()):
            raise identity_rejected()
        return authorization

    def _authorization(self, token: str) -> Authorization:
        state, nonce, code_verifier = (
            self._pepper.digest(f"authorization {purpose} {token}") for purpose in ("state", "nonce", "code verifier")
        )
        return Authorization(token, state, nonce, code_verifier)

    def _mac(self, head: str) -> str:
        return self._pepper.digest(f"authorization {head}")


def identity_rejected() -> PermissionDenied:
    """Return the error for an answer that is not accepted. It gives no details, so that attempts reveal nothing."""
    return PermissionDenied(
        "The log-in was not completed: it was not started in this browser, took longer than ten minutes, or was "
        "already used. Start it again.",
        reason="identity_rejected",
    )
