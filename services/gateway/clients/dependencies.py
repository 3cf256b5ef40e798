"""gRPC clients that read the dependencies of inference and quota."""

from collections.abc import Sequence

from grpc import aio

from services.common.rpc.status import rpc_errors
from services.gateway.dependencies import UNKNOWN, Dependency
from stack.inference.v1 import inference_pb2, inference_pb2_grpc
from stack.quota.v1 import quota_pb2, quota_pb2_grpc

_TIMEOUT_SECONDS = 2.0
_STATES = {
    int(inference_pb2.DEPENDENCY_STATE_OK): "ok",
    int(inference_pb2.DEPENDENCY_STATE_REJECTED): "rejected",
    int(inference_pb2.DEPENDENCY_STATE_UNREACHABLE): "unreachable",
}
"""By protobuf number, which is the same for both services."""


class InferenceDependencies:
    """Reads the dependencies of inference."""

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = inference_pb2_grpc.InferenceServiceStub(channel)

    async def __call__(self) -> Sequence[Dependency]:
        """Return the current states.

        Raises:
            ServiceError: Inference does not answer, or its version does not support the call.
        """
        with rpc_errors(unavailable_reason="inference_unavailable"):
            request = inference_pb2.GetDependenciesRequest()
            response = await self._stub.GetDependencies(request, timeout=_TIMEOUT_SECONDS)
        return [_dependency(one) for one in response.dependencies]


class QuotaDependencies:
    """Reads the dependencies of quota."""

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = quota_pb2_grpc.QuotaServiceStub(channel)

    async def __call__(self) -> Sequence[Dependency]:
        """Return the current states.

        Raises:
            ServiceError: Quota does not answer, or its version does not support the call.
        """
        with rpc_errors(unavailable_reason="quota_unavailable"):
            request = quota_pb2.GetDependenciesRequest()
            response = await self._stub.GetDependencies(request, timeout=_TIMEOUT_SECONDS)
        return [_dependency(one) for one in response.dependencies]


def _dependency(one: inference_pb2.Dependency | quota_pb2.Dependency) -> Dependency:
    return Dependency(one.name, _STATES.get(int(one.state), UNKNOWN), one.message)
