"""The console's parts put together over the gateway's channels."""

from collections.abc import Sequence

from grpc import aio
from starlette.types import ASGIApp

from services.common.clock import SystemClock
from services.gateway.console.app import Console, build_console
from services.gateway.console.assets import Assets
from services.gateway.console.auth_backend import GrpcDoor, GrpcOwner
from services.gateway.console.origins import parse_origin
from services.gateway.console.owner import Stay
from services.gateway.console.page import STATIC, Pages
from services.gateway.console.usage_backend import GrpcUsage
from services.gateway.console.visit import Belongings
from services.gateway.cors import CORSPolicy
from services.gateway.routes import API, Models
from services.gateway.settings import GatewaySettings

_AUTH_SECONDS_MAX = 5.0
"""Passwords are hashed behind a queue; nobody waits longer for a page."""
_USAGE_SECONDS_MAX = 3.0


def open_console(
    channels: Sequence[aio.Channel], api: API, models: Models, cors: CORSPolicy, settings: GatewaySettings
) -> ASGIApp:
    """Return the console over the `channels` to auth, quota and inference; its playground answers through `api`."""
    auth, quota, inference = channels

    def let_in(token: str, stay: Stay, address: str) -> Belongings:
        owner = GrpcOwner(auth, token, address=address, timeout_seconds=_AUTH_SECONDS_MAX)
        usage = GrpcUsage(quota, inference, stay.account_id, timeout_seconds=_USAGE_SECONDS_MAX)
        return Belongings(stay, owner, usage)

    clock, assets = SystemClock(), Assets(STATIC)
    return build_console(
        Console(
            pages=Pages(clock, assets),
            assets=assets,
            clock=clock,
            door=GrpcDoor(auth, timeout_seconds=_AUTH_SECONDS_MAX),
            let_in=let_in,
            api=api,
            models=models,
            cors=cors,
            hsts_seconds=settings.hsts_seconds,
            public=parse_origin(settings.public_url),
        )
    )
