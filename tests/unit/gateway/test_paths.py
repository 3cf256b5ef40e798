"""Paths of the API, under all their aliases."""

import time

import pytest

from services.gateway.http.paths import canonical_path, is_api_path, route_of


@pytest.mark.parametrize("prefix", ["/api/v1", "/v1", "/openai/v1", "/openai/v1/v1", "/v1/v1/v1", "/v1/api/v1"])
@pytest.mark.parametrize("slash", ["", "/", "//"])
@pytest.mark.parametrize(
    "path",
    [
        "/chat",
        "/chat/completions",
        "/completions",
        "/messages",
        "/messages/count_tokens",
        "/responses",
        "/responses/resp_1/input_items",
        "/embeddings",
        "/moderations",
        "/images/generations",
        "/models",
        "/models/openai/gpt-oss-120b",
        "/key",
        "/usage",
        "/usage/req_1",
        "/usage/req_1/jws",
    ],
)
def test_every_prefix_leads_to_the_canonical_path(prefix: str, path: str, slash: str) -> None:
    assert canonical_path(prefix + path + slash) == f"/api/v1{path}"


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/chat", "/api/v1/chat"),
        ("/chat/completions/", "/api/v1/chat/completions"),
        ("/models/x/y", "/api/v1/models/x/y"),
        ("/key", "/key"),
        ("/messages", "/messages"),
        ("/responses", "/responses"),
        ("/v1/messagesx", "/v1/messagesx"),
        ("/usage/req_1", "/usage/req_1"),
        ("/v1/usage/req_1/more", "/v1/usage/req_1/more"),
        ("/v1/chat/more", "/v1/chat/more"),
        ("/v1/chat\n", "/v1/chat\n"),
        ("/xv1/chat", "/xv1/chat"),
        ("/api/chat", "/api/chat"),
        ("/", "/"),
        ("", ""),
        ("*", "*"),
    ],
)
def test_without_a_prefix_only_openais_own_paths_are_aliases(path: str, canonical: str) -> None:
    assert canonical_path(path) == canonical


@pytest.mark.parametrize(
    ("path", "is_api", "route"),
    [
        ("/api/v1/chat", True, "chat"),
        ("/api/v1/chat/completions", True, "chat"),
        ("/api/v1/models/x", True, "models"),
        ("/api/v1/key", True, "key"),
        ("/api/v1/usage/req_1", True, "usage"),
        ("/api/v1/usage/req_1/jws", True, "usage"),
        ("/.well-known/jwks.json", True, "jwks"),
        ("/.well-known/other", True, "unknown"),
        ("/.well-known", True, "unknown"),
        ("/api/v1/openapi.json", True, "openapi.json"),
        ("/api/v1/embeddings", True, "unknown"),
        ("/api/v1", True, "unknown"),
        ("/api/v2/chat", True, "unknown"),
        ("/v1/chat/more", True, "unknown"),
        ("/openai", True, "unknown"),
        ("/healthz", True, "healthz"),
        ("/readyz", True, "readyz"),
        ("/static/app.css", False, "static"),
        ("/playground", False, "playground"),
        ("/apis/v1/chat", False, "console"),
        ("/keys", False, "console"),
        ("/", False, "console"),
        ("", False, "console"),
        ("*", False, "console"),
    ],
)
def test_all_paths_outside_of_the_api_belong_to_the_console(path: str, is_api: bool, route: str) -> None:
    assert is_api_path(path) is is_api
    assert route_of(path) == route


def test_a_prefix_that_is_repeated_thousands_of_times_costs_no_time() -> None:
    """A router that mounts itself would exceed the recursion limit."""
    started = time.perf_counter()
    assert canonical_path("/v1" * 20_000 + "/chat") == "/api/v1/chat"
    assert canonical_path("/v1" * 20_000 + "/x") == "/v1" * 20_000 + "/x"
    assert time.perf_counter() - started < 1
