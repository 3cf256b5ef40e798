"""The OpenAPI document matches the running API, as checked by schemathesis."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.stack import Key, Stack

_SECONDS_MAX = 100
_CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


async def test_the_document_needs_no_key(http: httpx.AsyncClient) -> None:
    response = await http.get("/api/v1/openapi.json")
    assert response.status_code == 200
    assert json.loads(response.content)["openapi"] == "3.1.0"


@pytest.mark.parametrize("examples", [6, pytest.param(30, marks=pytest.mark.long)])
def test_schemathesis_finds_no_fault(stack: Stack, key: Key, tmp_path: Path, examples: int) -> None:
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
            *("--checks", _CHECKS, "--max-examples", str(examples), "--phases", "fuzzing", "--seed", "1", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=_SECONDS_MAX,
        check=False,
    )
    print(done.stdout[-1500:])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "Tested: 11" in done.stdout, "not every operation was tried"
