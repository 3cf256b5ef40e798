"""aiohttp connections that report a malformed response body immediately.

aiohttp closes the connection at a bad chunk, but the reader of the body keeps waiting until a time-out.
"""

import asyncio
import functools

import aiohttp
from aiohttp.client_proto import ResponseHandler


def install(connector: aiohttp.BaseConnector) -> None:
    """Make a connector's connections report malformed bodies immediately."""
    # aiohttp has no public API to replace the protocol. A test with bad chunks fails if this stops working.
    protocol: type[ResponseHandler] = _ResponseHandler
    connector._factory = functools.partial(protocol, loop=asyncio.get_running_loop())


class _ResponseHandler(ResponseHandler):
    """aiohttp's protocol, extended to report connection failures to the reader of the body."""

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        super().set_exception(exc, *cause)
        body = self._payload
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("the body cannot be parsed"))
