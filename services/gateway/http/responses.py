"""JSON responses."""

from collections.abc import Mapping

from starlette.responses import Response


def json_response(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response. OpenAI's JavaScript client parses only this exact media type."""
    return Response(body, status_code=status, media_type="application/json", headers=headers)
