"""The services' dependencies over gRPC."""

from collections.abc import Sequence

from grpc import aio

from services.common.errors import rpc_errors
from services.gateway.dependencies import UNKNOWN, Dependency
from stack.inference.v1 import inference_pb2, inference_pb2_grpc

_TIMEOUT_SECONDS = 2.0
_STATES = {
    inference_pb2.DEPENDENCY_STATE_OK: "ok",
    inference_pb2.DEPENDENCY_STATE_REJECTED: "rejected",
    inference_pb2.DEPENDENCY_STATE_UNREACHABLE: "unreachable",
}


class InferenceDependencies:
    """The dependencies of inference."""

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = inference_pb2_grpc.InferenceServiceStub(channel)

    async def __call__(self) -> Sequence[Dependency]:
        """Return their states.

        Raises:
            ServiceError: Inference does not answer, or is of a version that does not know.
        """
        with rpc_errors(unavailable_reason="inference_unavailable"):
            request = inference_pb2.GetDependenciesRequest()
            response = await self._stub.GetDependencies(request, timeout=_TIMEOUT_SECONDS)
        return [Dependency(one.name, _STATES.get(one.state, UNKNOWN), one.message) for one in response.dependencies]
