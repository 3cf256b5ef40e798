"""The console's parts put together over the gateway's channels."""

from collections.abc import Sequence

from grpc import aio
from starlette.types import ASGIApp

from services.common.clock import SystemClock
from services.gateway.console.app import Console, build_console
from services.gateway.console.auth_backend import GrpcDoor, GrpcOwner
from services.gateway.console.owner import Stay
from services.gateway.console.page import Pages
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

    door = GrpcDoor(auth, timeout_seconds=_AUTH_SECONDS_MAX)
    return build_console(Console(Pages(SystemClock()), door, let_in, api, models, cors, settings.hsts_seconds))
