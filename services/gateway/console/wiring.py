"""Assembly of the console from the gateway's channels and settings."""

from collections.abc import Callable
from pathlib import Path

from starlette.types import ASGIApp

from services.common.price_file import read_prices
from services.common.runtime.clock import SystemClock
from services.common.web.assets import Assets
from services.common.web.origins import parse_origin
from services.gateway.apis.routes import API
from services.gateway.clients.channels import Channels
from services.gateway.console.app import Console, build_console
from services.gateway.console.clients.auth import GrpcOwnerClient, GrpcSessionClient
from services.gateway.console.clients.identities import GrpcIdentityClient
from services.gateway.console.clients.models import GrpcModelsClient
from services.gateway.console.clients.refusals import GrpcRefusalClient
from services.gateway.console.clients.totp import GrpcTOTPClient
from services.gateway.console.clients.usage import GrpcUsage
from services.gateway.console.docs.values import ValueSource
from services.gateway.console.docs.viewer import VIEWER_FILES
from services.gateway.console.docs.views import DocsViews
from services.gateway.console.facts import Facts
from services.gateway.console.page import STATIC, Pages
from services.gateway.console.ports import Session
from services.gateway.console.request_context import SessionScope
from services.gateway.console.site import Site
from services.gateway.console.usage.live import LiveRequests
from services.gateway.http.cors import CORSPolicy
from services.gateway.requests.ports import ResponseStore
from services.gateway.settings import GatewaySettings

_AUTH_SECONDS_MAX = 5.0
"""Maximum wait for auth, where password hashing is queued."""
_USAGE_SECONDS_MAX = 3.0


def open_console(
    channels: Channels,
    api: API,
    responses: ResponseStore,
    cors: CORSPolicy,
    settings: GatewaySettings,
    *,
    is_draining: Callable[[], bool],
) -> ASGIApp:
    """Return the console's application.

    Args:
        channels: Channels to auth, quota and inference.
        api: Serves the playground's chats.
        responses: Stored responses, which are deleted with their account.
        cors: CORS policy of error responses.
        settings: Settings of the gateway.
        is_draining: Whether the gateway is shutting down.
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
        refusals = GrpcRefusalClient(channels.quota, session.quota_account_id, timeout_seconds=_USAGE_SECONDS_MAX)
        return SessionScope(session, owner, usage, refusals)

    clock, site = SystemClock(), site_of(settings)
    assets = Assets(STATIC, VIEWER_FILES | ({site.logo_name: site.logo} if site.logo else {}))
    session_client = GrpcSessionClient(channels.auth, timeout_seconds=_AUTH_SECONDS_MAX)
    models_client = GrpcModelsClient(channels.inference, timeout_seconds=_USAGE_SECONDS_MAX)
    facts = Facts(session_client, models_client, clock)
    pages, public = Pages(clock, assets, site, facts), parse_origin(settings.public_url)
    return build_console(
        Console(
            pages=pages,
            assets=assets,
            clock=clock,
            session_client=session_client,
            facts=facts,
            prices=read_prices(settings.prices_file),
            identity_client=GrpcIdentityClient(channels.auth, timeout_seconds=_AUTH_SECONDS_MAX),
            totp_client=GrpcTOTPClient(channels.auth, timeout_seconds=_AUTH_SECONDS_MAX),
            docs=DocsViews(pages, ValueSource(settings, site, facts), public),
            open_scope=open_scope,
            api=api,
            responses=responses,
            live=LiveRequests(clock, is_draining=is_draining),
            cors=cors,
            hsts_seconds=settings.hsts_seconds,
            upgrade=settings.upgrade,
            public=public,
        )
    )


def site_of(settings: GatewaySettings) -> Site:
    """Return what the operator has set for all pages."""
    logo = Path(settings.console_logo) if settings.console_logo else None
    return Site(settings.console_name, logo, settings.console_contact, settings.console_terms)
