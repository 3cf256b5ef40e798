"""Who may call what over mTLS: each gRPC service names the identities that it expects."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from services.common.errors import PermissionDenied, rpc_status
from services.common.rpc.types import Context

Callers = Mapping[str, Collection[str]]
"""Full names of gRPC services, and the identities (names in certificates) that may call each."""

_PEER_NAMES = "peer_dns"
"""Where gRPC's core puts the DNS names of the peer's certificate, which it has verified."""

Handler = Any
"""An RPC handler; grpc's stubs have no type for one of unknown messages."""

_REBUILD = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def with_more(callers: Callers, more: Callers) -> Callers:
    """Return a table to which an operator's own callers were added."""
    return {service: {*callers.get(service, ()), *more.get(service, ())} for service in {*callers, *more}}


class CallerInterceptor(aio.ServerInterceptor):
    """Refuses each call whose certificate bears none of the expected names.

    A service that the table does not name may be called by nobody, reflection by everybody whom it names, and health by
    every certificate that is believed: channels ask it before the first call, which could not say why it is refused.
    """

    def __init__(self, callers: Callers) -> None:
        """Expect `callers`."""
        known = frozenset(name for names in callers.values() for name in names)
        self._callers = {service: frozenset(names) for service, names in callers.items()}
        self._callers[reflection.SERVICE_NAME] = known

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Put the check before the handler, whatever its kind."""
        handler = await continuation(handler_call_details)
        service = handler_call_details.method.split("/")[1]
        if handler is None or service == health.SERVICE_NAME:
            return handler
        expected = self._callers.get(service, frozenset())
        kind = (handler.request_streaming, handler.response_streaming)
        behaviour = getattr(handler, "_".join("stream" if streams else "unary" for streams in kind))
        guarded = _guarded_stream if inspect.isasyncgenfunction(behaviour) else _guarded
        return _REBUILD[kind](
            guarded(behaviour, service, expected), handler.request_deserializer, handler.response_serializer
        )


def _guarded(behaviour: Callable[[Any, Context], Awaitable[Any]], service: str, expected: frozenset[str]) -> Handler:
    async def call(request: Any, context: Context) -> Any:
        await _require(context, service, expected)
        return await behaviour(request, context)

    return call


def _guarded_stream(behaviour: Callable[[Any, Context], Any], service: str, expected: frozenset[str]) -> Handler:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        await _require(context, service, expected)
        async with aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                yield response

    return call


async def _require(context: Context, service: str, expected: frozenset[str]) -> None:
    names = [name.decode("ascii", "replace") for name in context.auth_context().get(_PEER_NAMES, ())]
    if expected.isdisjoint(names):
        shown = ", ".join(names) or "no name"
        refusal = PermissionDenied(f"{service} does not expect calls by {shown}", reason="caller_not_expected")
        message, details = rpc_status(refusal)
        await context.abort(refusal.code, message, details)
