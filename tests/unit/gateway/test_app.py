"""The application around its handlers: ids, CORS and the error envelope, also for internal errors."""

from typing import Any, cast

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from services.common.errors import Unavailable
from services.gateway.apis.plan_webhook import PlanWebhook
from services.gateway.apis.receipts import Receipts
from services.gateway.apis.routes import API
from services.gateway.apis.signed_receipts import SignedReceipts
from services.gateway.apis.stored_responses import StoredResponses
from services.gateway.apis.usage_export import UsageExport
from services.gateway.apis.usage_webhook import UsageWebhookEndpoint
from services.gateway.dependencies import Dependencies
from services.gateway.http.cors import CORSPolicy
from services.gateway.http_server.write_flow import ClientStalled
from services.gateway.requests.in_flight import RequestsInFlight
from services.gateway.server import Readiness, build_app
from tests.logs import service_records

_ORIGIN = "https://app.example"


class Handlers:
    """Handlers that fail."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        async def handler(request: Request) -> Response:
            raise self._error

        return handler


def _app(error: Exception, *, origins: tuple[str, ...] = ("*",)) -> ASGIApp:
    handlers: Any = Handlers(error)
    return build_app(
        cast(API, handlers),
        cast(Receipts, handlers),
        cast(SignedReceipts, handlers),
        cast(UsageExport, handlers),
        cast(UsageWebhookEndpoint, handlers),
        cast(StoredResponses, handlers),
        cast(PlanWebhook, handlers),
        Readiness(Dependencies([])),
        cors=CORSPolicy(origins),
        requests=RequestsInFlight(),
    )


async def _answer(error: Exception, *, origins: tuple[str, ...] = ("*",)) -> httpx.Response:
    app = _app(error, origins=origins)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.post("/v1/chat/completions", headers={"Origin": _ORIGIN})


@pytest.mark.parametrize(("method", "origins"), [("PUT", ("*",)), ("POST", ("https://other.example",))])
async def test_a_refused_preflight_has_the_error_envelope(method: str, origins: tuple[str, ...]) -> None:
    app = _app(RuntimeError(), origins=origins)
    headers = {"Origin": _ORIGIN, "Access-Control-Request-Method": method}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        response = await client.options("/v1/chat/completions", headers=headers)
    assert (response.status_code, response.headers["content-type"]) == (400, "application/json")
    assert response.json()["error"]["code"] == "cors_not_allowed"
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["access-control-allow-methods"] == "GET, POST, DELETE"
    assert response.headers.get("access-control-allow-origin", "") == ("*" if "*" in origins else "")


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("secret detail"), 500), (Unavailable("away", reason="auth_unavailable"), 503)]
)
async def test_an_internal_error_has_the_envelope_an_id_and_cors_headers(error: Exception, status: int) -> None:
    response = await _answer(error)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert "secret" not in response.text
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["access-control-allow-origin"] == "*"
    assert {"x-request-id", "request-id"} <= set(response.headers["access-control-expose-headers"].split(", "))


async def test_a_page_may_delete_a_response() -> None:
    headers = {"Origin": _ORIGIN, "Access-Control-Request-Method": "DELETE"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(_app(RuntimeError())), base_url="http://gateway") as one:
        response = await one.options("/v1/responses/resp_1", headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/a/b"])
@pytest.mark.parametrize("version", ["2023-06-01", None])
async def test_an_error_of_models_has_the_envelope_of_the_clients_api(path: str, version: str | None) -> None:
    app = _app(Unavailable("away", reason="auth_unavailable"))
    headers = {"anthropic-version": version} if version else {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        response = await client.get(path, headers=headers)
    assert response.status_code == 503
    if version:
        assert (response.json()["type"], response.json()["error"]["type"]) == ("error", "overloaded_error")
        assert response.headers["request-id"] == response.headers["x-request-id"]
    else:
        assert response.json()["error"]["code"] == "auth_unavailable"
        assert "request-id" not in response.headers


@pytest.mark.parametrize(
    ("origins", "allowed"),
    [(("https://app.example",), "https://app.example"), (("https://other.example",), None), ((), None)],
)
async def test_a_page_of_another_origin_cannot_read_it(origins: tuple[str, ...], allowed: str | None) -> None:
    response = await _answer(RuntimeError(), origins=origins)
    assert response.status_code == 500
    assert response.headers.get("access-control-allow-origin") == allowed
    headers = CORSPolicy(origins).headers(_ORIGIN)
    assert headers.get("access-control-allow-origin") == allowed


async def test_a_stalled_client_is_not_an_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "services")
    await _answer(ClientStalled("reads nothing"))
    assert {"client stalled", "request"} <= {record.message for record in caplog.records}
    assert [record for record in service_records(caplog) if record.levelname == "ERROR"] == []
