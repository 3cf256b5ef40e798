"""An OpenTelemetry collector for tests: it receives spans over OTLP and stores them."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

_PATIENCE_SECONDS = 10


@dataclass(frozen=True)
class Exported:
    """One span, as it arrived."""

    service: str
    span: trace_pb2.Span

    @property
    def attributes(self) -> dict[str, str | int | float | bool]:
        """Its attributes."""
        return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in self.span.attributes}


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Stores all spans that arrive.

    Attributes:
        spans: In order of arrival.
    """

    def __init__(self) -> None:
        self.spans: list[Exported] = []

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans.extend(Exported(names["service.name"], span) for span in scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def until(self, is_enough: Callable[[list[Exported]], bool]) -> list[Exported]:
        """Return all spans once they are enough."""
        patience = time.monotonic() + _PATIENCE_SECONDS
        while not is_enough(self.spans):
            assert time.monotonic() < patience, f"only these arrived: {[(s.service, s.span.name) for s in self.spans]}"
            time.sleep(0.05)
        return list(self.spans)


@contextmanager
def running_collector() -> Iterator[tuple[Collector, str]]:
    """Run a collector for the block; yield it and its address."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
