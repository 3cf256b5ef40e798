"""gRPC client for auth's RPCs of identity providers."""

from collections.abc import Sequence

from grpc import aio

from services.common.rpc.status import rpc_errors
from services.common.timestamps import unix_seconds
from services.gateway.console.clients.auth import from_address, open_session_of, owner_metadata
from services.gateway.console.identity_ports import Authorization, AuthorizationAnswer, Identities, Identity, Provider
from services.gateway.console.ports import OpenSession, PendingLogIn
from stack.auth.v1 import identities_pb2, identities_pb2_grpc

_PROVIDER_SECONDS_MAX = 18.0
"""Maximum wait for calls in which auth calls the provider up to four times, each for at most 4 s."""


class GrpcIdentityClient:
    """An `IdentityClient` over auth's IdentityService."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Use `channel`, with a timeout of `timeout_seconds` for calls without the provider."""
        self._stub = identities_pb2_grpc.IdentityServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def providers(self) -> Sequence[Provider]:
        """Return the configured providers."""
        with rpc_errors(unavailable_reason="auth_unavailable"):
            answer = await self._stub.ListIdentityProviders(
                identities_pb2.ListIdentityProvidersRequest(), timeout=self._timeout_seconds
            )
        return [Provider(one.name, one.label) for one in answer.providers]

    async def authorize_log_in(self, provider: str, *, address: str) -> Authorization:
        """Start a log-in."""
        request = identities_pb2.AuthorizeLogInRequest(provider=provider)
        with rpc_errors(unavailable_reason="auth_unavailable"):
            answer = await self._stub.AuthorizeLogIn(
                request, metadata=from_address(address), timeout=_PROVIDER_SECONDS_MAX
            )
        return Authorization(answer.url, answer.state_token)

    async def log_in(
        self, answer: AuthorizationAnswer, *, invite: str, replaced_token: str, device_token: str, address: str
    ) -> OpenSession | PendingLogIn:
        """Create a session or a pending log-in."""
        request = identities_pb2.LogInWithIdentityRequest(
            answer=_answer(answer), invite=invite, replaced_token=replaced_token, device_token=device_token
        )
        with rpc_errors(unavailable_reason="auth_unavailable"):
            response = await self._stub.LogInWithIdentity(
                request, metadata=from_address(address), timeout=_PROVIDER_SECONDS_MAX
            )
        if response.pending_token:
            return PendingLogIn(response.pending_token)
        return open_session_of(response.session)

    async def identities(self, token: str) -> Identities:
        """Return the identities of the owner's account."""
        with rpc_errors(unavailable_reason="auth_unavailable"):
            answer = await self._stub.ListOwnIdentities(
                identities_pb2.ListOwnIdentitiesRequest(), metadata=owner_metadata(token), timeout=self._timeout_seconds
            )
        return Identities([_identity(one) for one in answer.identities], answer.has_password)

    async def authorize_link(self, token: str, provider: str, password: str, *, address: str) -> Authorization:
        """Start a log-in that links an identity."""
        request = identities_pb2.AuthorizeLinkRequest(provider=provider, password=password)
        with rpc_errors(unavailable_reason="auth_unavailable"):
            answer = await self._stub.AuthorizeLink(
                request, metadata=owner_metadata(token, address), timeout=_PROVIDER_SECONDS_MAX
            )
        return Authorization(answer.url, answer.state_token)

    async def link(self, token: str, answer: AuthorizationAnswer, *, address: str) -> Identity:
        """Link an identity."""
        request = identities_pb2.LinkOwnIdentityRequest(answer=_answer(answer))
        with rpc_errors(unavailable_reason="auth_unavailable"):
            response = await self._stub.LinkOwnIdentity(
                request, metadata=owner_metadata(token, address), timeout=_PROVIDER_SECONDS_MAX
            )
        return _identity(response.identity)

    async def unlink(self, token: str, identity_id: str, password: str, *, address: str) -> None:
        """Unlink an identity."""
        request = identities_pb2.UnlinkOwnIdentityRequest(identity_id=identity_id, password=password)
        with rpc_errors(unavailable_reason="auth_unavailable"):
            await self._stub.UnlinkOwnIdentity(
                request, metadata=owner_metadata(token, address), timeout=self._timeout_seconds
            )


def _answer(answer: AuthorizationAnswer) -> identities_pb2.AuthorizationAnswer:
    return identities_pb2.AuthorizationAnswer(
        provider=answer.provider,
        state_token=answer.state_token,
        state=answer.state,
        code=answer.code,
        issuer=answer.issuer,
    )


def _identity(identity: identities_pb2.Identity) -> Identity:
    return Identity(identity.id, identity.provider, identity.email, unix_seconds(identity.created_at))
