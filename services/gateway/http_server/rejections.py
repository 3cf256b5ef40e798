"""Error responses that the application does not send, in the envelope of the request's surface."""

import logging
from collections.abc import Callable

from starlette.types import Scope

from services.common.web.request_id import REQUEST_ID
from services.gateway.http.cors import CORSPolicy
from services.gateway.http.errors import HTTPError
from services.gateway.http.paths import canonical_path
from services.gateway.http_server.response import encode_head
from services.gateway.metrics import REJECTED
from services.gateway.requests.surface import ErrorRenderer

_log = logging.getLogger(__name__)


def _invalid(status: int, message: str, code: str) -> HTTPError:
    return HTTPError(status, message, "invalid_request_error", code=code)


MALFORMED = _invalid(
    400, "The request is not valid HTTP. Check the client, or the proxy in front of it.", "malformed_request"
)
CONNECT = _invalid(400, "CONNECT is not supported because this server is not a proxy.", "malformed_request")
HOST = _invalid(400, "An HTTP/1.1 request needs one Host header field. Check the client.", "malformed_request")
TRANSFER_CODING = _invalid(
    501,
    "The only supported transfer-encoding is chunked, once. Send the body without another.",
    "unsupported_transfer_encoding",
)
TIMED_OUT = _invalid(408, "The request did not arrive in time. Send it again.", "request_timeout")
TARGET_TOO_LONG = _invalid(414, "The request URL is too long. Shorten it.", "uri_too_long")
HEAD_TOO_LARGE = _invalid(
    431, "The request has too many header fields, or they are too large. Send fewer.", "request_headers_too_large"
)
TRAILERS_TOO_LARGE = _invalid(
    431, "The trailers or chunk extensions of the request are too large. Send fewer.", "request_headers_too_large"
)
VERSION = _invalid(505, "The HTTP version is not supported. Use HTTP/1.1 or HTTP/1.0.", "http_version_not_supported")


class Rejections:
    """Builds error responses that close their connection. Each has a request id, and is logged and counted."""

    def __init__(self, *, new_request_id: Callable[[], str], cors: CORSPolicy, render_error: ErrorRenderer) -> None:
        self._new_request_id = new_request_id
        self._cors = cors
        self._render_error = render_error

    def response(self, error: HTTPError, scope: Scope, *, date: bytes) -> bytes:
        """Return a complete response.

        Args:
            error: Error to respond with.
            scope: Scope of the request, or its `method`, `path` and `headers` as far as they were read.
            date: The `date` header line.
        """
        request_id = scope.get(REQUEST_ID) or self._new_request_id()
        scope = {**scope, "path": canonical_path(scope["path"]), REQUEST_ID: request_id}
        rendered = self._render_error(scope, error)
        REJECTED.labels(str(rendered.status)).inc()
        _log.info(
            "request rejected", extra={"request_id": request_id, "status": rendered.status, "reason": error.code or ""}
        )
        origin = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"), "")
        headers = {
            "content-type": "application/json",
            "content-length": str(len(rendered.body)),
            "x-request-id": request_id,
            "connection": "close",
            **rendered.headers,
            **self._cors.headers(origin),
        }
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        # RFC 9110, 9.3.2: a response to HEAD has no body.
        body = b"" if scope["method"] == "HEAD" else rendered.body
        return encode_head(rendered.status, raw, date=date) + body
