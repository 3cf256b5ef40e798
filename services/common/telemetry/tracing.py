"""OpenTelemetry traces, sent over OTLP.

Without a collector, no spans are created and tracing costs nothing. With one, a trace begins with an HTTP request and
includes every call made for it. Background work such as watches and sweeps is not traced. Attributes contain names and
numbers from this project only, never user data: no prompts, answers, keys or error messages.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from opentelemetry import context, trace
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.common.errors import ServiceError
from services.common.runtime.http_proxy import is_loopback

_PARENT = "traceparent"


class ServedCall(Protocol):
    """An RPC that is being served; a gRPC servicer context."""

    def invocation_metadata(self) -> Any:
        """Return the caller's metadata as pairs of names and values; None if there is none."""


Attributes = Mapping[str, str | int | float | bool]
"""Attributes of a span, with OpenTelemetry's standard names where they exist, and `stack.…` otherwise."""

_NO_ATTRIBUTES: Attributes = {}
_GRPC: Attributes = {"rpc.system": "grpc"}
_NO_SPAN: AbstractContextManager[Span] = nullcontext(INVALID_SPAN)
_propagator = TraceContextTextMapPropagator()
_tracer: trace.Tracer | None = None


@contextmanager
def exporting(service: str, *, endpoint: str, ratio: float) -> Iterator[None]:
    """Export spans to a collector until the end of the block, and flush them there.

    Args:
        service: Name of this service.
        endpoint: OTLP/gRPC endpoint of the collector, `http://host:4317` or `https://…`; empty turns tracing off.
            OpenTelemetry's `OTEL_EXPORTER_OTLP_*` variables configure everything else.
        ratio: Fraction of requests to trace, from 0 to 1.
    """
    global _tracer
    if not endpoint:
        yield
        return
    # Imported only when tracing is on: the SDK takes time and memory to load.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    provider = TracerProvider(
        resource=Resource.create({"service.name": service, "service.namespace": "stack"}),
        sampler=ParentBased(TraceIdRatioBased(ratio)),
        shutdown_on_exit=False,
    )
    # A proxy cannot reach the loopback address of this machine.
    options: Any = (("grpc.enable_http_proxy", 0),) if is_loopback(endpoint) else None
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, channel_options=options)))
    _tracer = provider.get_tracer("stack")
    try:
        yield
    finally:
        _tracer = None
        provider.shutdown()


def is_on() -> bool:
    """Return whether tracing is on."""
    return _tracer is not None


def is_traced() -> bool:
    """Return whether the current request is traced, also after its end."""
    return bool(trace_id())


def span(
    name: str, attributes: Attributes = _NO_ATTRIBUTES, *, kind: SpanKind = SpanKind.INTERNAL
) -> AbstractContextManager[Span]:
    """Return a context manager for a span of the current request, which records whether and how the block fails."""
    if _tracer is None or not trace.get_current_span().is_recording():
        return _NO_SPAN
    return _span(_tracer, name, kind, attributes)


def entry(name: str, *, link: str = "") -> AbstractContextManager[Span]:
    """Return a context manager for the root span of a trace. Its block must run in a separate task.

    Args:
        name: Name of the span.
        link: The client's `traceparent`. The client's trace is linked, not continued, so that an untrusted client can
            neither control what is traced nor join its requests with those of others.
    """
    if _tracer is None:
        return _NO_SPAN
    return _attached(_tracer.start_span(name, context.Context(), kind=SpanKind.SERVER, links=_links(link)))


def serving(name: str, call: "ServedCall") -> AbstractContextManager[Span]:
    """Return a context manager that continues the caller's trace. Its block must run in a separate task."""
    if _tracer is None:
        return _NO_SPAN
    carrier = {key: str(value) for key, value in call.invocation_metadata() or () if key == _PARENT}
    if not carrier:
        return _NO_SPAN
    return _attached(_tracer.start_span(name, _propagator.extract(carrier), kind=SpanKind.SERVER, attributes=_GRPC))


def note(attributes: Attributes) -> None:
    """Add attributes to the current span, if there is one."""
    if _tracer is not None:
        trace.get_current_span().set_attributes(attributes)


def calling(name: str) -> Span | None:
    """Return a span for a call to another service, which the caller must end; None without a current trace."""
    if _tracer is None or not trace.get_current_span().get_span_context().is_valid:
        return None
    return _tracer.start_span(name, kind=SpanKind.CLIENT, attributes=_GRPC)


def metadata_of(span: Span) -> tuple[tuple[str, str], ...]:
    """Return the gRPC metadata that propagates a span to the callee."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(span))
    return tuple(carrier.items())


def trace_id() -> str:
    """Return the current trace id in hexadecimal; empty if there is no sampled trace."""
    if _tracer is None:
        return ""
    span_context = trace.get_current_span().get_span_context()
    is_traced = span_context.is_valid and span_context.trace_flags.sampled
    return trace.format_trace_id(span_context.trace_id) if is_traced else ""


@contextmanager
def _span(tracer: trace.Tracer, name: str, kind: SpanKind, attributes: Attributes) -> Iterator[Span]:
    new_span = tracer.start_span(name, kind=kind, attributes=attributes)
    token = context.attach(trace.set_span_in_context(new_span))
    try:
        with _end_with_block(new_span):
            yield new_span
    finally:
        context.detach(token)


@contextmanager
def _attached(new_span: Span) -> Iterator[Span]:
    # Not detached: the task ends with its request, and a stream's generator may be closed in another context.
    context.attach(trace.set_span_in_context(new_span))
    with _end_with_block(new_span):
        yield new_span


@contextmanager
def _end_with_block(new_span: Span) -> Iterator[None]:
    """End a span with the block. Record only the reason or type of a failure: its message may contain user data."""
    try:
        yield
    except BaseException as exc:
        new_span.set_attribute("error.type", exc.reason if isinstance(exc, ServiceError) else type(exc).__name__)
        new_span.set_status(Status(StatusCode.ERROR))
        raise
    finally:
        new_span.end()


def _links(parent: str) -> list[Link]:
    theirs = trace.get_current_span(_propagator.extract({_PARENT: parent})).get_span_context() if parent else None
    return [Link(theirs)] if theirs is not None and theirs.is_valid else []
