"""Callers of a request: a client with an API key, or the owner of a key in the console's playground."""

from starlette.requests import Request

from services.gateway.http.bearer import bearer_token, client_address
from services.gateway.keys.revocation import IdentityCheck, Revocation, RevocationRegistry
from services.gateway.requests.ports import Authenticator
from services.gateway.requests.types import Principal


class KeyCaller:
    """A client that sends an API key."""

    def __init__(self, request: Request, authenticator: Authenticator, revocations: RevocationRegistry) -> None:
        self._request = request
        self._authenticator = authenticator
        self._revocations = revocations

    async def authenticate(self) -> Principal:
        """Return the key's principal; see `Caller.authenticate`."""
        address = client_address(self._request)
        return await self._authenticator.authenticate(bearer_token(self._request), address=address)

    async def authenticate_again(self, principal: Principal) -> Principal:
        """Authenticate the key again and return its current principal."""
        return await self.authenticate()

    async def revocation(self, principal: Principal) -> Revocation:
        """Return what ends a stream when the key is revoked."""
        return await self._revocations.of_key(principal.key_id, bearer_token(self._request))


class SessionCaller:
    """A user who is logged in to the console and uses a key of their account."""

    def __init__(
        self, principal: Principal, session_id: str, check: IdentityCheck, revocations: RevocationRegistry
    ) -> None:
        """Create a caller.

        Args:
            principal: Principal of the key.
            session_id: Id of the session.
            check: Asks auth whether the session and the key are still valid.
            revocations: Ends streams.
        """
        self._principal = principal
        self._session_id = session_id
        self._check = check
        self._revocations = revocations

    async def authenticate(self) -> Principal:
        """Return the key's principal."""
        return self._principal

    async def authenticate_again(self, principal: Principal) -> Principal:
        """Return the key's principal.

        Raises:
            Unauthenticated: The session has ended, or the key was revoked.
        """
        revocation = await self.revocation(principal)
        await revocation.check()
        if revocation.is_revoked:
            raise revocation.refusal
        return principal

    async def revocation(self, principal: Principal) -> Revocation:
        """Return what ends a stream when the session ends or the key is revoked."""
        return await self._revocations.of_session(self._session_id, principal.key_id, self._check)
