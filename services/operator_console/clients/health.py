"""Reads the health of the services: gRPC's health protocol, and a gateway's `/readyz`."""

import asyncio
from collections.abc import Sequence

import httpx
import msgspec
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.operator_console.model import Check

_SECONDS_MAX = 2.0
_BYTES_MAX = 65_536
_READY_STATES = {"ready": "ok", "ok": "ok", "unknown": "unknown", "unchecked": "unknown"}


class _Dependency(msgspec.Struct):
    state: str
    message: str = ""


class _Ready(msgspec.Struct):
    status: str
    dependencies: dict[str, _Dependency] = {}


_decode = msgspec.json.Decoder(_Ready).decode


class HealthClient:
    """Checks the services at the same time."""

    def __init__(self, channels: Sequence[tuple[str, aio.Channel]], gateway_url: str) -> None:
        """Check the gRPC services of `channels` by name, and a gateway unless its URL is empty."""
        self._channels = channels
        self._gateway_url = gateway_url

    async def checks(self) -> Sequence[Check]:
        """Return the health of each service, and of what the gateway knows to be a dependency."""
        services = asyncio.gather(*(_grpc_check(name, channel) for name, channel in self._channels))
        gateway, others = await asyncio.gather(self._gateway(), services)
        return [*gateway[:1], *others, *gateway[1:]]

    async def _gateway(self) -> Sequence[Check]:
        if not self._gateway_url:
            return [Check("gateway", "unknown", "OPERATOR_CONSOLE_GATEWAY_URL is not set.")]
        try:
            ready = _decode(await _fetch(f"{self._gateway_url.rstrip('/')}/readyz"))
        except (httpx.HTTPError, TimeoutError, msgspec.MsgspecError, ValueError, RecursionError) as exc:
            return [Check("gateway", "failed", f"No answer from {self._gateway_url}/readyz ({type(exc).__name__}).")]
        dependencies = [
            Check(name, _READY_STATES.get(one.state, "failed"), one.message or _note(one.state))
            for name, one in sorted(ready.dependencies.items())
        ]
        state = _READY_STATES.get(ready.status, "failed")
        return [Check("gateway", state, "" if state == "ok" else f"It is {ready.status}."), *dependencies]


async def _fetch(url: str) -> bytes:
    """Return the answer of a gateway, which anyone may have captured: only its first bytes, and only in time."""
    content = bytearray()
    async with (
        asyncio.timeout(_SECONDS_MAX),
        httpx.AsyncClient(trust_env=False, timeout=_SECONDS_MAX) as client,
        client.stream("GET", url, headers={"accept-encoding": "identity"}) as response,
    ):
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > _BYTES_MAX:
                raise ValueError(f"more than {_BYTES_MAX} bytes")
    return bytes(content)


def _note(state: str) -> str:
    return "Not checked yet." if _READY_STATES.get(state) == "unknown" else ""


async def _grpc_check(name: str, channel: aio.Channel) -> Check:
    check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
    try:
        answer = await check(health_pb2.HealthCheckRequest(), timeout=_SECONDS_MAX)
    except aio.AioRpcError as exc:
        return Check(name, "failed", f"No answer ({exc.code().name}).")
    is_serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return Check(name, "ok" if is_serving else "failed", "" if is_serving else "It is starting or stopping.")
