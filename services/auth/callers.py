"""Authentication of RPC callers: operators with the admin token or a session of their console, users with a session."""

import hmac
from urllib.parse import unquote

from services.auth import audit
from services.auth.audit import Actor
from services.auth.sessions.manager import SessionManager
from services.auth.sessions.model import Session
from services.common.errors import PermissionDenied, Unauthenticated
from services.common.rpc.types import Context

_SCHEME = "Bearer "
_OPERATOR = "stack-operator"
_CLIENT_ADDRESS = "stack-client-address"


class AdminToken:
    """Authenticates operators by the admin token."""

    def __init__(self, token: str) -> None:
        """Initialize with the expected token."""
        self._token = token.encode()

    def require(self, context: Context) -> Actor:
        """Return the operator who makes the call.

        Raises:
            Unauthenticated: The call has no token.
            PermissionDenied: The token is wrong.
        """
        token = _bearer(context)
        if token is None:
            raise Unauthenticated(
                "The admin token is missing. Send the metadata `authorization: Bearer STACK_ADMIN_TOKEN`.",
                reason="admin_token_missing",
            )
        if not hmac.compare_digest(token.encode(), self._token):
            raise PermissionDenied(
                "The admin token is wrong. Use the STACK_ADMIN_TOKEN that auth was started with.",
                reason="admin_token_wrong",
            )
        return audit.operator(_operator_name(context), _peer(context))


class SessionAuthenticator:
    """Authenticates users by their session token."""

    def __init__(self, sessions: SessionManager) -> None:
        """Look tokens up in `sessions`."""
        self._sessions = sessions

    async def require(self, context: Context) -> Session:
        """Return the caller's session.

        Raises:
            Unauthenticated: The call has no token, or the session has ended.
        """
        return await self._sessions.get(_bearer(context) or "")


class OperatorAuthenticator:
    """Authenticates operators by the token of their session in the operators' console."""

    def __init__(self, sessions: SessionManager) -> None:
        """Look tokens up in `sessions`, which are those of operators only."""
        self._sessions = sessions

    async def session(self, context: Context) -> Session:
        """Return the caller's session.

        Raises:
            Unauthenticated: The call has no token, the session has ended, or it is no longer that of an operator who
                logged in with TOTP.
        """
        return await self._sessions.get(_bearer(context) or "")

    async def require(self, context: Context) -> Actor:
        """Return the operator who makes the call. Raises the exceptions of `session`."""
        session = await self.session(context)
        return audit.operator_account(session.account.id, _metadata(context, _CLIENT_ADDRESS) or _peer(context))


def user_actor(context: Context) -> Actor:
    """Return the account owner (or a user signing up) as the actor, at the client address sent by the gateway.

    Without that address, the actor has the address of the gRPC peer.
    """
    return audit.owner(_metadata(context, _CLIENT_ADDRESS) or _peer(context))


def webhook_actor(context: Context) -> Actor:
    """Return the sender of a webhook as the actor, at the client address sent by the gateway, as for `user_actor`."""
    return audit.webhook(_metadata(context, _CLIENT_ADDRESS) or _peer(context))


def _bearer(context: Context) -> str | None:
    """Return the bearer token of the call, or None."""
    token = _metadata(context, "authorization")
    return token.removeprefix(_SCHEME) if token.startswith(_SCHEME) else None


def _metadata(context: Context, name: str) -> str:
    value = dict(context.invocation_metadata() or ()).get(name, "")
    return value if isinstance(value, str) else ""


def _operator_name(context: Context) -> str:
    """Return the operator's name. Names that are not ASCII are sent as UTF-8 in binary metadata."""
    value = dict(context.invocation_metadata() or ()).get(f"{_OPERATOR}-bin", b"")
    named = value.decode("utf-8", "replace") if isinstance(value, bytes) else ""
    return named or _metadata(context, _OPERATOR)


def _peer(context: Context) -> str:
    """Return the peer's IP address without the port; empty for a Unix socket."""
    scheme, _, address = context.peer().partition(":")
    # gRPC writes an IPv6 address as in a URI: `ipv6:%5B::1%5D:50051`.
    return unquote(address).rpartition(":")[0].strip("[]") if scheme in ("ipv4", "ipv6") else ""
