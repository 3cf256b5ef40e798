"""JSON responses."""

from collections.abc import Mapping

from starlette.responses import Response

from services.gateway.http.errors import HTTPError


def json_response(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response. OpenAI's JavaScript client parses only this exact media type."""
    return Response(body, status_code=status, media_type="application/json", headers=headers)


def error_response(error: HTTPError, *, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as OpenAI's JSON."""
    return json_response(error.body, status=error.status, headers={**(headers or {}), **error.headers})
