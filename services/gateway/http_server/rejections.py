"""What the server itself answers to what is no request that the application could get: in the API's own envelope."""

import logging
from collections.abc import Callable

from services.gateway.http.cors import CORSPolicy
from services.gateway.http.errors import HTTPError
from services.gateway.http_server.response import encode_head
from services.gateway.metrics import REJECTED

_log = logging.getLogger(__name__)


def _invalid(status: int, message: str, code: str) -> HTTPError:
    return HTTPError(status, message, "invalid_request_error", code=code)


MALFORMED = _invalid(
    400, "The request is not valid HTTP. Check the client, or the proxy in front of it.", "malformed_request"
)
CONNECT = _invalid(400, "CONNECT is not supported: this server is no proxy.", "malformed_request")
HOST = _invalid(400, "An HTTP/1.1 request needs one Host header field. Check the client.", "malformed_request")
TRANSFER_CODING = _invalid(
    501,
    "The only transfer-encoding that is supported is chunked, once. Send the body without another.",
    "unsupported_transfer_encoding",
)
TIMED_OUT = _invalid(408, "The request did not arrive in time; send it again.", "request_timeout")
TARGET_TOO_LONG = _invalid(414, "The URL of the request is too long.", "uri_too_long")
HEAD_TOO_LARGE = _invalid(
    431, "The header fields of the request are too large, or too many; send fewer.", "request_headers_too_large"
)
TRAILERS_TOO_LARGE = _invalid(
    431, "The trailers or chunk extensions of the request are too large.", "request_headers_too_large"
)
VERSION = _invalid(505, "Only HTTP/1.0 and HTTP/1.1 are supported.", "http_version_not_supported")


class Rejections:
    """Writes error responses that close their connection, with a request id, a log line and a count of their own."""

    def __init__(self, *, new_request_id: Callable[[], str], cors: CORSPolicy) -> None:
        self._new_request_id = new_request_id
        self._cors = cors

    def response(self, error: HTTPError, *, origin: str, date: bytes) -> bytes:
        """Return the whole response.

        Args:
            error: What to answer.
            origin: Of the page that asks, as far as its head was read; empty for none.
            date: The header line of the date.
        """
        request_id = self._new_request_id()
        REJECTED.labels(str(error.status)).inc()
        _log.info(
            "request rejected", extra={"request_id": request_id, "status": error.status, "reason": error.code or ""}
        )
        body = error.body
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "x-request-id": request_id,
            "connection": "close",
            **error.headers,
            **self._cors.headers(origin),
        }
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        return encode_head(error.status, raw, date=date) + body
