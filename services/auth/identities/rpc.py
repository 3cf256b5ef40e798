"""gRPC service IdentityService: log-in with identity providers, and the owner's linked identities."""

from services.auth import messages
from services.auth.callers import SessionAuthenticator, user_actor
from services.auth.identities.authorization import AuthorizationAnswer
from services.auth.identities.manager import IdentityManager
from services.auth.identities.model import Identity
from services.auth.sessions.manager import SessionManager
from services.auth.totp.pending import PendingLogIn
from services.common.rpc.types import Context
from stack.auth.v1 import identities_pb2, identities_pb2_grpc


class IdentityService(identities_pb2_grpc.IdentityServiceServicer):
    """Serves log-in with identity providers to gateways."""

    def __init__(self, identities: IdentityManager, sessions: SessionManager) -> None:
        self._identities = identities
        self._authenticator = SessionAuthenticator(sessions)

    async def ListIdentityProviders(
        self, request: identities_pb2.ListIdentityProvidersRequest, context: Context
    ) -> identities_pb2.ListIdentityProvidersResponse:
        """Return the configured providers."""
        return identities_pb2.ListIdentityProvidersResponse(
            providers=[
                identities_pb2.IdentityProvider(name=provider.name, label=provider.label)
                for provider in self._identities.providers
            ]
        )

    async def AuthorizeLogIn(
        self, request: identities_pb2.AuthorizeLogInRequest, context: Context
    ) -> identities_pb2.AuthorizeLogInResponse:
        """Return the URL of a log-in at a provider."""
        url, authorization = await self._identities.authorize_log_in(request.provider, by=user_actor(context))
        return identities_pb2.AuthorizeLogInResponse(url=url, state_token=authorization.token)

    async def LogInWithIdentity(
        self, request: identities_pb2.LogInWithIdentityRequest, context: Context
    ) -> identities_pb2.LogInWithIdentityResponse:
        """Open a session for the account of an identity."""
        logged_in = await self._identities.log_in(
            _answer(request.answer),
            invite=request.invite,
            replaced_token=request.replaced_token,
            device_token=request.device_token,
            by=user_actor(context),
        )
        if isinstance(logged_in, PendingLogIn):
            return identities_pb2.LogInWithIdentityResponse(pending_token=logged_in.token)
        return identities_pb2.LogInWithIdentityResponse(session=messages.open_session(logged_in))

    async def ListOwnIdentities(
        self, request: identities_pb2.ListOwnIdentitiesRequest, context: Context
    ) -> identities_pb2.ListOwnIdentitiesResponse:
        """Return the identities of the account."""
        session = await self._authenticator.require(context)
        listed, has_password = await self._identities.of_account(session)
        return identities_pb2.ListOwnIdentitiesResponse(
            identities=[_identity(identity) for identity in listed], has_password=has_password
        )

    async def AuthorizeLink(
        self, request: identities_pb2.AuthorizeLinkRequest, context: Context
    ) -> identities_pb2.AuthorizeLinkResponse:
        """Check the password, and return the URL of a log-in that links an identity."""
        session = await self._authenticator.require(context)
        url, authorization = await self._identities.authorize_link(
            session, request.provider, request.password, by=user_actor(context)
        )
        return identities_pb2.AuthorizeLinkResponse(url=url, state_token=authorization.token)

    async def LinkOwnIdentity(
        self, request: identities_pb2.LinkOwnIdentityRequest, context: Context
    ) -> identities_pb2.LinkOwnIdentityResponse:
        """Link an identity to the account."""
        session = await self._authenticator.require(context)
        identity = await self._identities.link(session, _answer(request.answer), by=user_actor(context))
        return identities_pb2.LinkOwnIdentityResponse(identity=_identity(identity))

    async def UnlinkOwnIdentity(
        self, request: identities_pb2.UnlinkOwnIdentityRequest, context: Context
    ) -> identities_pb2.UnlinkOwnIdentityResponse:
        """Unlink an identity from the account."""
        session = await self._authenticator.require(context)
        identity_id = messages.identity_id(request.identity_id)
        await self._identities.unlink(session, identity_id, request.password, by=user_actor(context))
        return identities_pb2.UnlinkOwnIdentityResponse()


def _answer(message: identities_pb2.AuthorizationAnswer) -> AuthorizationAnswer:
    return AuthorizationAnswer(message.provider, message.state_token, message.state, message.code, message.issuer)


def _identity(source: Identity) -> identities_pb2.Identity:
    return identities_pb2.Identity(
        id=source.id,
        provider=source.provider,
        email=source.email,
        created_at=messages.timestamp(source.created_at),
    )
