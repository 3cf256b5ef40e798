"""The view of Groq's rate limits from inference's settings."""

from contextlib import AsyncExitStack

from services.common.runtime.clock import SystemClock
from services.inference.allowance.model import AllowanceView
from services.inference.allowance.own_view import OwnView
from services.inference.metrics import export_allowance
from services.inference.settings import InferenceSettings


def open_view(settings: InferenceSettings, stack: AsyncExitStack) -> AllowanceView:
    """Return a view that `stack` closes. Redis need not be reachable yet."""
    clock = SystemClock()
    own = OwnView(clock, configured=settings.upstream_limits)
    if not settings.allowance_redis:
        export_allowance(own.remaining, lambda: False)
        return own
    from services.inference.allowance.shared_view import SharedView, connect  # Loads the client of Redis.

    client = connect(settings.allowance_redis)
    stack.push_async_callback(client.aclose)
    shared = SharedView(client, own, clock, keys=settings.keys)
    stack.push_async_callback(shared.close)
    export_allowance(own.remaining, lambda: shared.is_shared)
    return shared
