"""Security headers of the console."""

import logging
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.web.request_id import REQUEST_ID

# Allows only resources from this site, and forbids inline scripts and styles, and frames.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_log = logging.getLogger(__name__)


class SecurityHeaders:
    """Middleware that adds security headers to every response, and answers unexpected exceptions with an error page."""

    def __init__(self, app: ASGIApp, *, hsts_seconds: int, defect_page: bytes) -> None:
        """Wrap `app`.

        Args:
            app: The application.
            hsts_seconds: Max age of `strict-transport-security`; 0 omits the header.
            defect_page: HTML of the error page.
        """
        self._app = app
        self._defect_page = defect_page
        self._headers = [
            (b"content-security-policy", _POLICY.encode()),
            (b"x-frame-options", b"DENY"),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"same-origin"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
        ]
        if hsts_seconds:
            self._headers.append((b"strict-transport-security", f"max-age={hsts_seconds}".encode()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                message["headers"] = [*_uncached(message["headers"], scope["path"]), *self._headers]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            if has_started:
                raise
            _log.exception("Unhandled exception in a console page", extra={"request_id": scope.get(REQUEST_ID, "")})
            headers = [(b"content-type", b"text/html; charset=utf-8")]
            await send_with_headers({"type": "http.response.start", "status": 500, "headers": headers})
            await send_with_headers({"type": "http.response.body", "body": self._defect_page})


def _uncached(headers: Iterable[tuple[bytes, bytes]], path: str) -> list[tuple[bytes, bytes]]:
    """Return headers that forbid caching, except for static files, which set their own."""
    fields = list(headers)
    if path.startswith("/static/") and any(name == b"cache-control" for name, _ in fields):
        return fields
    return [*(pair for pair in fields if pair[0] != b"cache-control"), (b"cache-control", b"no-store")]
