"""The OpenAPI document matches the running API: schemathesis tries every operation, and real exchanges of each surface
are valid.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from tests.e2e.stack import Key, Stack
from tests.faults.surfaces import Surface, body

_SECONDS_MAX = 100
_CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


async def test_the_document_needs_no_key(http: httpx.AsyncClient) -> None:
    response = await http.get("/api/v1/openapi.json")
    assert response.status_code == 200
    assert json.loads(response.content)["openapi"] == "3.1.0"


@pytest.mark.long
def test_schemathesis_finds_no_fault(stack: Stack, key: Key, tmp_path: Path) -> None:
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert program, "schemathesis is in the dev lock"
    done = subprocess.run(
        [
            *(
                program,
                "run",
                f"{stack.base_url}/api/v1/openapi.json",
                "--header",
                f"Authorization: Bearer {key.secret}",
            ),
            *("--checks", _CHECKS, "--max-examples", "30", "--phases", "fuzzing", "--seed", "1", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=_SECONDS_MAX,
        check=False,
    )
    print(done.stdout[-1500:])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "Tested: 22" in done.stdout, "not every operation was tried"


@pytest.fixture
async def document(http: httpx.AsyncClient) -> dict[str, Any]:
    """Return the served document."""
    served: dict[str, Any] = (await http.get("/api/v1/openapi.json")).json()
    return served


def _assert_valid(document: dict[str, Any], value: Any, *path: str) -> None:
    """Check a value by the schema at a path of the document."""
    pointer = "/".join(name.replace("/", "~1") for name in ("paths", *path, "schema"))
    jsonschema.Draft202012Validator({"$ref": f"#/{pointer}", **document}).validate(value)


def _assert_declared(document: dict[str, Any], surface: Surface, response: httpx.Response) -> None:
    """Check a response's status, media type and, if it is JSON, its value."""
    status = str(response.status_code)
    media_type = response.headers["content-type"].partition(";")[0]
    assert media_type in document["paths"][surface.path]["post"]["responses"][status]["content"]
    if media_type == "application/json":
        path = (surface.path, "post", "responses", status, "content", media_type)
        _assert_valid(document, response.json(), *path)
        with pytest.raises(jsonschema.ValidationError):
            _assert_valid(document, {"another": "object"}, *path)


@pytest.mark.parametrize("surface", list(Surface))
@pytest.mark.parametrize(
    "text",
    [
        "hi",
        "[[standin:tool_call]]",
        "[[standin:usage only=none]]",
        "[[standin:length tokens=2]]",
        "[[standin:400]]",
        "[[standin:413]]",
        "[[standin:404]]",
        # Repeated calls take a second.
        pytest.param("[[standin:no_answer what=object]]", marks=pytest.mark.long),
    ],
)
async def test_requests_and_responses_are_as_declared(
    http: httpx.AsyncClient, key: Key, document: dict[str, Any], surface: Surface, text: str
) -> None:
    for stream in (False, True):
        sent = body(surface, text, stream=stream)
        _assert_valid(document, sent, surface.path, "post", "requestBody", "content", "application/json")
        response = await http.post(surface.path, json=sent, headers=key.headers)
        _assert_declared(document, surface, response)


@pytest.mark.parametrize("surface", list(Surface))
async def test_refusals_are_as_declared(
    http: httpx.AsyncClient, stack: Stack, key: Key, document: dict[str, Any], surface: Surface
) -> None:
    spent = await stack.create_key(daily_limit=0)
    bad = body(surface, "hi", stream=False, is_bad=True)
    with pytest.raises(jsonschema.ValidationError):
        _assert_valid(document, bad, surface.path, "post", "requestBody", "content", "application/json")
    statuses = []
    for sent, headers in (
        (bad, key.headers),
        (body(surface, "hi", stream=False), spent.headers),
        (body(surface, "hi", stream=True), {"authorization": "Bearer sk_stk_wrong"}),
    ):
        response = await http.post(surface.path, json=sent, headers=headers)
        statuses.append(response.status_code)
        _assert_declared(document, surface, response)
    assert statuses == [400, 429, 401]
