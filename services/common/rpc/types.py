"""Type aliases for gRPC classes, which are generic in the stubs but not at runtime."""

from typing import TYPE_CHECKING, Any

from grpc import aio

if TYPE_CHECKING:
    Context = aio.ServicerContext[Any, Any]
    UnaryCall = aio.UnaryUnaryCall[Any, Any]
    StreamCall = aio.UnaryStreamCall[Any, Any]
else:
    Context = aio.ServicerContext
    UnaryCall = aio.UnaryUnaryCall
    StreamCall = aio.UnaryStreamCall
