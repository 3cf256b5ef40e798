"""Who calls the management RPCs: an operator with the admin token, or an owner with a session."""

import hmac
from urllib.parse import unquote

from services.auth import audit
from services.auth.audit import Actor
from services.auth.sessions.model import Session, Sessions
from services.common.errors import PermissionDenied, Unauthenticated
from services.common.rpc.types import Context

_SCHEME = "Bearer "
_OPERATOR = "stack-operator"
_CLIENT_ADDRESS = "stack-client-address"


class AdminToken:
    """What callers of the admin RPCs must show."""

    def __init__(self, token: str) -> None:
        """Demand `token`."""
        self._token = token.encode()

    def require(self, context: Context) -> Actor:
        """Return the operator when the call carries the token.

        Raises:
            Unauthenticated: The call carries none.
            PermissionDenied: The call carries another.
        """
        shown = _bearer(context)
        if shown is None:
            raise Unauthenticated(
                "this call needs the metadata `authorization: Bearer STACK_ADMIN_TOKEN`", reason="admin_token_missing"
            )
        if not hmac.compare_digest(shown.encode(), self._token):
            raise PermissionDenied(
                "the admin token is wrong; use the STACK_ADMIN_TOKEN that auth was started with",
                reason="admin_token_wrong",
            )
        return audit.operator(_operator_name(context), _peer(context))


class SessionAuthenticator:
    """Who calls with a session."""

    def __init__(self, sessions: Sessions) -> None:
        """Look tokens up in `sessions`."""
        self._sessions = sessions

    async def require(self, context: Context) -> Session:
        """Return the caller's session.

        Raises:
            Unauthenticated: The call carries no token, or one whose session has ended.
        """
        return await self._sessions.get(_bearer(context) or "")


def user_actor(context: Context) -> Actor:
    """Return the owner, or somebody who wants to be one, at the address that the calling gateway names."""
    return audit.owner(_metadata(context, _CLIENT_ADDRESS) or _peer(context))


def _bearer(context: Context) -> str | None:
    """Return the token that the call carries; None when it carries none."""
    shown = _metadata(context, "authorization")
    return shown.removeprefix(_SCHEME) if shown.startswith(_SCHEME) else None


def _metadata(context: Context, name: str) -> str:
    value = dict(context.invocation_metadata() or ()).get(name, "")
    return value if isinstance(value, str) else ""


def _operator_name(context: Context) -> str:
    """Return the name that the operator gives: as bytes of UTF-8 where ASCII cannot hold it."""
    value = dict(context.invocation_metadata() or ()).get(f"{_OPERATOR}-bin", b"")
    named = value.decode("utf-8", "replace") if isinstance(value, bytes) else ""
    return named or _metadata(context, _OPERATOR)


def _peer(context: Context) -> str:
    """Return the address of who holds the connection, without its port; a Unix socket has none."""
    scheme, _, address = context.peer().partition(":")
    # gRPC writes an IPv6 address as in a URI: `ipv6:%5B::1%5D:50051`.
    return unquote(address).rpartition(":")[0].strip("[]") if scheme in ("ipv4", "ipv6") else ""
