"""Paths sent by clients are shortened and stripped of secrets before they are written anywhere."""

import pytest

from services.gateway.http.redaction import loggable_path, redacted

_KEY = "sk_stk_a7Kq0ZxW3bN9vT5rY1mC8dE2fG4hJ6kLpQsUt0Rz"
_REQUEST = "req_01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.mark.parametrize(
    "secret",
    [
        _KEY,
        _KEY.removeprefix("sk_stk_"),
        _KEY.replace("_", "%5F"),
        _KEY.lower(),
        "gsk_abcdEFGH1234",
        "sk-proj-0123456789abcdef",
        "eyJhbGciOiJIUzI1NiJ9",
        f"{_REQUEST}{_KEY}",
    ],
)
def test_secrets_are_masked_anywhere_in_a_path(secret: str) -> None:
    for path in (
        f"/{secret}",
        f"/{secret}/v1/chat",
        f"/api/v1/usage/{secret}",
        f"/{'a' * 190}/{secret}",
        f"/x={secret}",
    ):
        shown = redacted(path)
        assert secret not in shown
        assert secret[10:18] not in shown.replace(_REQUEST, "")
        assert "****" in shown


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/api/v1/chat/completions",
        "/v1/models/meta-llama/llama-4-maverick-17b-128e-instruct",
        f"/api/v1/usage/{_REQUEST}",
        "/usage/requests/key_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "/api/v1/responses/resp_01ARZ3NDEKTSV4RRFFQ69G5FAV/msg_01ARZ3NDEKTSV4RRFFQ69G5FAV_i0",
        "/static/console.css",
        "/v1/audio/transcriptions",
    ],
)
def test_other_paths_are_logged_unchanged(path: str) -> None:
    assert redacted(path) == path


def test_a_long_path_is_shortened() -> None:
    assert len(redacted("/a b" * 20_000)) == 201


def test_a_route_parameter_is_logged_by_its_name() -> None:
    assert loggable_path("/api/v1/usage/abc", {"request_id": "abc"}) == "/api/v1/usage/{request_id}"
    assert loggable_path("/keys/keys/rotate", {"id": "keys"}) == "/keys/{id}/rotate"
    assert loggable_path("/api/v1/chat", {}) == "/api/v1/chat"
