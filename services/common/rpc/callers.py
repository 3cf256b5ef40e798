"""Authorization of gRPC callers by the names in their mTLS certificates."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from services.common.errors import PermissionDenied
from services.common.rpc.status import to_status
from services.common.rpc.types import Context

Callers = Mapping[str, Collection[str]]
"""Maps full names of gRPC services to the identities (names in certificates) that may call them."""

_PEER_NAMES = "peer_dns"
"""Key of the auth context under which gRPC stores the verified DNS names of the peer's certificate."""

Handler = Any
"""An RPC handler. The gRPC stubs have no type for handlers of unknown message types."""

_REBUILD = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def merge_callers(callers: Callers, more: Callers) -> Callers:
    """Return the union of two caller tables."""
    return {service: {*callers.get(service, ()), *more.get(service, ())} for service in {*callers, *more}}


class CallerInterceptor(aio.ServerInterceptor):
    """Rejects calls whose certificate has none of the allowed names.

    A service missing from the table rejects all callers. Reflection accepts every caller in the table. Health accepts
    every trusted certificate, because channels check health before the first call, and a rejected check could not
    report the reason.
    """

    def __init__(self, callers: Callers) -> None:
        """Allow `callers`."""
        known = frozenset(name for names in callers.values() for name in names)
        self._callers = {service: frozenset(names) for service, names in callers.items()}
        self._callers[reflection.SERVICE_NAME] = known

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Wrap a handler of any kind with the check."""
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
        await _check_caller(context, service, expected)
        return await behaviour(request, context)

    return call


def _guarded_stream(behaviour: Callable[[Any, Context], Any], service: str, expected: frozenset[str]) -> Handler:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        await _check_caller(context, service, expected)
        async with aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                yield response

    return call


async def _check_caller(context: Context, service: str, expected: frozenset[str]) -> None:
    names = [name.decode("ascii", "replace") for name in context.auth_context().get(_PEER_NAMES, ())]
    if expected.isdisjoint(names):
        shown = ", ".join(names) or "a certificate without a name"
        refusal = PermissionDenied(
            f"{service} does not accept calls from {shown}. Add the name to TLS_CALLERS of the service to allow them.",
            reason="caller_not_expected",
        )
        await context.abort_with_status(to_status(refusal))
