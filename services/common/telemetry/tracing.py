"""Traces: one request's way through the services, in OpenTelemetry's form, sent over OTLP where a collector is named.

Without a collector nothing is made and nothing costs. With one, a trace begins where a request enters over HTTP and
goes along with every call that is made for it; what nobody's request asked for (watches, sweeps) is not traced.
Attributes are names and numbers of ours, never what a person wrote: no prompt, no answer, no key, no message of an
error.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.common.errors import ServiceError
from services.common.rpc.types import Context
from services.common.runtime.http_proxy import is_loopback

_PARENT = "traceparent"
Attributes = Mapping[str, str | int | float | bool]
"""What a span tells beside its name and times; OpenTelemetry's names where it has one, else `stack.…`."""

_NONE: Attributes = {}
_GRPC: Attributes = {"rpc.system": "grpc"}
_NOTHING: AbstractContextManager[Span] = nullcontext(INVALID_SPAN)
_propagator = TraceContextTextMapPropagator()
_tracer: trace.Tracer | None = None


@contextmanager
def exporting(service: str, *, endpoint: str, ratio: float) -> Iterator[None]:
    """Send spans to a collector for the block; what is left is sent at its end.

    Args:
        service: Name of this service.
        endpoint: Where the collector takes OTLP over gRPC, `http://host:4317` or `https://…`; empty traces nothing.
            Everything else is told by OpenTelemetry's own `OTEL_EXPORTER_OTLP_*`.
        ratio: Part of the requests that are traced, 0 to 1.
    """
    global _tracer
    if not endpoint:
        yield
        return
    # Only here: the SDK takes memory and time to load that nobody should pay who traces nothing.
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
    # A proxy is for the internet: it does not reach this machine's loopback address.
    options: Any = (("grpc.enable_http_proxy", 0),) if is_loopback(endpoint) else None
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, channel_options=options)))
    _tracer = provider.get_tracer("stack")
    try:
        yield
    finally:
        _tracer = None
        provider.shutdown()


def is_on() -> bool:
    """Return whether spans are made at all."""
    return _tracer is not None


def span(
    name: str, attributes: Attributes = _NONE, *, kind: SpanKind = SpanKind.INTERNAL
) -> AbstractContextManager[Span]:
    """Return a context that is a span of the request under way; it tells when the block fails, and how."""
    if _tracer is None or not trace.get_current_span().is_recording():
        return _NOTHING
    return _span(_tracer, name, kind, attributes)


def entry(name: str, *, link: str = "") -> AbstractContextManager[Span]:
    """Return a context that begins a trace; its block must run in a task of its own.

    Args:
        name: Of the span.
        link: The caller's own `traceparent`. A stranger's trace is pointed at and not continued: it must neither
            choose what is traced here nor mix its requests with others'.
    """
    if _tracer is None:
        return _NOTHING
    return _entered(_tracer.start_span(name, context.Context(), kind=SpanKind.SERVER, links=_links(link)))


def serving(name: str, call: Context) -> AbstractContextManager[Span]:
    """Return a context that continues the trace of a call being served; its block must run in a task of its own."""
    if _tracer is None:
        return _NOTHING
    carrier = {key: str(value) for key, value in call.invocation_metadata() or () if key == _PARENT}
    if not carrier:
        return _NOTHING
    return _entered(_tracer.start_span(name, _propagator.extract(carrier), kind=SpanKind.SERVER, attributes=_GRPC))


def note(attributes: Attributes) -> None:
    """Add attributes to the span under way, if there is one."""
    if _tracer is not None:
        trace.get_current_span().set_attributes(attributes)


def calling(name: str) -> Span | None:
    """Return the span of a call to another service, which the caller must end; None when no request is under way."""
    if _tracer is None or not trace.get_current_span().get_span_context().is_valid:
        return None
    return _tracer.start_span(name, kind=SpanKind.CLIENT, attributes=_GRPC)


def metadata_of(span: Span) -> tuple[tuple[str, str], ...]:
    """Return what tells a callee of its caller's span."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(span))
    return tuple(carrier.items())


def trace_id() -> str:
    """Return the id of the trace under way in hexadecimal digits; empty when there is none."""
    if _tracer is None:
        return ""
    found = trace.get_current_span().get_span_context()
    return trace.format_trace_id(found.trace_id) if found.is_valid and found.trace_flags.sampled else ""


@contextmanager
def _span(tracer: trace.Tracer, name: str, kind: SpanKind, attributes: Attributes) -> Iterator[Span]:
    one = tracer.start_span(name, kind=kind, attributes=attributes)
    token = context.attach(trace.set_span_in_context(one))
    try:
        with _ended(one):
            yield one
    finally:
        context.detach(token)


@contextmanager
def _entered(one: Span) -> Iterator[Span]:
    # Never detached: the task ends with its request, and a stream's generator may be closed in another context.
    context.attach(trace.set_span_in_context(one))
    with _ended(one):
        yield one


@contextmanager
def _ended(one: Span) -> Iterator[None]:
    """End a span with the block, and note how the block failed: by reason or kind, never by words, which may be a
    person's."""
    try:
        yield
    except BaseException as exc:
        one.set_attribute("error.type", exc.reason if isinstance(exc, ServiceError) else type(exc).__name__)
        one.set_status(Status(StatusCode.ERROR))
        raise
    finally:
        one.end()


def _links(parent: str) -> list[Link]:
    theirs = trace.get_current_span(_propagator.extract({_PARENT: parent})).get_span_context() if parent else None
    return [Link(theirs)] if theirs is not None and theirs.is_valid else []
