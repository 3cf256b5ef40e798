"""gRPC service StatusService: the version, the dependencies and the queues of a service."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import REGISTRY

from services.common.errors import Unavailable
from services.common.rpc.types import Context
from stack.common.v1 import status_pb2, status_pb2_grpc

SERVICE_NAME = status_pb2.DESCRIPTOR.services_by_name["StatusService"].full_name


@dataclass(frozen=True, slots=True)
class DependencyStatus:
    """The state of a system that the service needs."""

    name: str
    state: str
    """`ok`, `rejected`, `unreachable`, `unknown` or `none`."""
    message: str = ""
    """What is wrong and what to do; empty if nothing is wrong."""


Dependencies = Callable[[], Awaitable[Sequence[DependencyStatus]]]


class StatusService(status_pb2_grpc.StatusServiceServicer):
    """Describes this replica."""

    def __init__(self, dependencies: Dependencies, queues: Mapping[str, str] | None = None) -> None:
        """Report `dependencies`, and the lengths of queues: names by the metrics that have their lengths."""
        self._dependencies = dependencies
        self._queues = queues or {}

    async def GetServiceStatus(
        self, request: status_pb2.GetServiceStatusRequest, context: Context
    ) -> status_pb2.GetServiceStatusResponse:
        """Return the status."""
        return status_pb2.GetServiceStatusResponse(
            version=version("stack-api"),
            dependencies=[
                status_pb2.DependencyStatus(name=one.name, state=one.state, message=one.message)
                for one in await self._dependencies()
            ],
            queues=[
                status_pb2.QueueStatus(name=name, length=int(REGISTRY.get_sample_value(metric) or 0))
                for metric, name in self._queues.items()
            ],
        )


async def database_status(read: Callable[[], Awaitable[object]]) -> DependencyStatus:
    """Return the state of a service's database, which `read` reads."""
    try:
        await read()
    except Unavailable as exc:
        return DependencyStatus("database", "unreachable", exc.message)
    return DependencyStatus("database", "ok")
