"""The errors of the API are counted for keys that the gateway knows, once each, and only after the authentication."""

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from services.common.errors import (
    ErrorDetails,
    InvalidRequest,
    NotFound,
    ServiceError,
    Throttled,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from services.gateway.apis.error_handlers import ErrorHandlers
from services.gateway.http.errors import HTTPError
from services.gateway.requests.types import CountedKey

_KEY = CountedKey("key_1", "acc_1")
_SECRET = {"authorization": "Bearer sk_known"}


async def _refused(error: Exception, headers: dict[str, str]) -> tuple[int, list[tuple[CountedKey, int, str | None]]]:
    """Return the status of a request that fails, and what was counted."""
    counted: list[tuple[CountedKey, int, str | None]] = []

    def count(key: CountedKey, failure: HTTPError) -> None:
        counted.append((key, failure.status, failure.code))

    async def fail(request: Request) -> Response:
        raise error

    handlers: Any = ErrorHandlers(lambda secret: _KEY if secret == "sk_known" else None, count).handlers
    app = Starlette(routes=[Route("/api/v1/chat", fail, methods=["POST"])], exception_handlers=handlers)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return (await client.post("/api/v1/chat", headers=headers)).status_code, counted


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequest("wrong", details=ErrorDetails(code="invalid_type")), 400, "invalid_type"),
        (InvalidRequest("wrong"), 400, None),
        (Unauthenticated("revoked", reason="revoked"), 401, "invalid_api_key"),
        (NotFound("none", details=ErrorDetails(code="model_not_found")), 404, "model_not_found"),
        (TooLarge("large", reason="request_too_large"), 413, "request_too_large"),
        (Throttled("many", reason="too_many_invalid_requests"), 429, "too_many_invalid_requests"),
        (Unavailable("away", reason="quota_unavailable"), 503, "quota_unavailable"),
        (HTTPException(408, "slow"), 408, "request_timeout"),
        (HTTPException(415, "zipped"), 415, "unsupported_content_encoding"),
    ],
)
async def test_an_error_of_a_known_key_is_counted(error: Exception, status: int, code: str | None) -> None:
    assert await _refused(error, _SECRET) == (status, [(_KEY, status, code)])
    assert await _refused(error, {"x-api-key": "sk_known"}) == (status, [(_KEY, status, code)])


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer sk_unknown"}, {"authorization": "Basic sk_known"}])
@pytest.mark.parametrize("error", [InvalidRequest("wrong"), Unauthenticated("unknown", reason="unknown")])
async def test_an_error_without_a_known_key_is_not_counted(error: ServiceError, headers: dict[str, str]) -> None:
    _, counted = await _refused(error, headers)
    assert counted == []


@pytest.mark.parametrize("error", [HTTPException(404), HTTPException(405), ClientDisconnect()])
async def test_an_error_before_the_authentication_or_without_a_client_is_not_counted(error: Exception) -> None:
    _, counted = await _refused(error, _SECRET)
    assert counted == []
