"""Health of gRPC services."""

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.rpc.channel import open_channel


async def grpc_serves(target: str) -> bool:
    """Return whether a gRPC service reports SERVING."""
    async with open_channel(target) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=1)
        except aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
