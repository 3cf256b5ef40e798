"""Assembly of the console from the gateway's channels and settings."""

from starlette.types import ASGIApp

from services.common.runtime.clock import SystemClock
from services.gateway.apis.routes import API
from services.gateway.clients.channels import Channels
from services.gateway.console.app import Console, build_console
from services.gateway.console.assets import Assets
from services.gateway.console.clients.auth import GrpcOwnerClient, GrpcSessionClient
from services.gateway.console.clients.usage import GrpcUsage
from services.gateway.console.page import STATIC, Pages
from services.gateway.console.ports import Session
from services.gateway.console.request_context import SessionScope
from services.gateway.console.security.origins import parse_origin
from services.gateway.http.cors import CORSPolicy
from services.gateway.requests.ports import Models, ResponseStore
from services.gateway.settings import GatewaySettings

_AUTH_SECONDS_MAX = 5.0
"""Maximum wait for auth, where password hashing is queued."""
_USAGE_SECONDS_MAX = 3.0


def open_console(
    channels: Channels,
    api: API,
    models: Models,
    responses: ResponseStore,
    cors: CORSPolicy,
    settings: GatewaySettings,
) -> ASGIApp:
    """Return the console's application.

    Args:
        channels: Channels to auth, quota and inference.
        api: Serves the playground's chats.
        models: Lists the models.
        responses: Stored responses, which are deleted with their account.
        cors: CORS policy of error responses.
        settings: Settings of the gateway.
    """

    def open_scope(token: str, session: Session, address: str) -> SessionScope:
        owner = GrpcOwnerClient(channels.auth, token, address=address, timeout_seconds=_AUTH_SECONDS_MAX)
        usage = GrpcUsage(
            channels.quota,
            channels.inference,
            session.account_id,
            quota_account_id=session.quota_account_id,
            timeout_seconds=_USAGE_SECONDS_MAX,
        )
        return SessionScope(session, owner, usage)

    clock, assets = SystemClock(), Assets(STATIC)
    return build_console(
        Console(
            pages=Pages(clock, assets),
            assets=assets,
            clock=clock,
            session_client=GrpcSessionClient(channels.auth, timeout_seconds=_AUTH_SECONDS_MAX),
            open_scope=open_scope,
            api=api,
            models=models,
            responses=responses,
            cors=cors,
            hsts_seconds=settings.hsts_seconds,
            upgrade=settings.upgrade,
            public=parse_origin(settings.public_url),
        )
    )
