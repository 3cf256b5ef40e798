"""Untrusted clients at the HTTP edge of a real stack: nothing is counted, logged or kept in memory."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.metrics import Metrics, watched_stack
from tests.e2e.stack import Key, Stack, running_stack, say

_ORIGIN = "https://app.example"
_SECRETS = ("sk_stk_a7Kq0ZxW3bN9vT5rY1mC8dE2fG4hJ6kLpQsUt0Rz", "gsk_Zq8WvUtSrQpOnMlKjIhGfEdCbA9876543210zyxw")
_MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def watched() -> Iterator[tuple[Stack, Metrics]]:
    """Yield a stack whose metrics are served."""
    with watched_stack(LOG_LEVEL="DEBUG") as running:
        yield running


@pytest.fixture(scope="module")
def strict() -> Iterator[Stack]:
    """Yield a stack with a low limit of invalid requests."""
    with running_stack(workers=1, GATEWAY_INVALID_REQUESTS_PER_SECOND="0.25") as running:
        yield running


@pytest.mark.long
async def test_a_key_in_a_path_is_never_logged_and_a_long_path_is_shortened(watched: tuple[Stack, Metrics]) -> None:
    stack, metrics = watched
    key = await stack.create_key()
    secrets = [*_SECRETS, key.secret]
    async with httpx.AsyncClient(base_url=stack.base_url, trust_env=False, timeout=20) as http:
        for secret in secrets:
            for path in (
                f"/{secret}",
                f"/{secret}/v1/chat/completions",
                f"/api/v1/{secret}",
                f"/api/v1/models/{secret}",
                f"/api/v1/usage/{secret}",
                f"/usage/requests/{secret}",
                f"/keys/{secret}/rotate",
                f"/static/{secret}",
                f"/{secret.replace('_', '%5F')}",
                f"/healthz/{secret}?key={secret}",
            ):
                for headers in (key.headers, {"Accept": "text/html"}):
                    answer = await http.get(path, headers=headers)
                    assert answer.status_code < 500
                    assert secret not in answer.text
                await http.post(path, headers=key.headers, json=say("hi"))
        await http.get("/" + "a/" * 20_000)
    logs = [path.read_text() for path in stack.folder.glob("*.log")]
    written = [*logs, metrics.text("gateway")]
    assert [secret for text in written for secret in secrets if secret[7:] in text] == []
    lines = [json.loads(line) for line in stack.log("gateway-1").splitlines() if '"path"' in line]
    assert max(len(line["path"]) for line in lines) <= 201
    assert {"/api/v1/usage/{request_id}", "/api/v1/models/{id}"} <= {line["path"] for line in lines}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nowhere"),
        ("POST", "/v1/embeddings"),
        ("GET", "/api/v1/nowhere"),
        ("GET", "/api/v1/chat"),
        ("GET", "/api/v1/usage/req_nothing"),
        ("POST", "/api/v1/chat"),
    ],
)
async def test_a_web_page_may_read_every_error(http: httpx.AsyncClient, method: str, path: str) -> None:
    response = await http.request(method, path, headers={"Origin": _ORIGIN})
    assert response.status_code >= 400
    assert response.headers["access-control-allow-origin"] == "*"
    assert "x-request-id" in response.headers["access-control-expose-headers"]
    assert response.headers["x-request-id"]


async def test_a_console_page_cannot_be_read_by_another_site(http: httpx.AsyncClient) -> None:
    response = await http.get("/login", headers={"Origin": _ORIGIN, "Accept": "text/html"})
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


async def test_a_page_of_a_public_site_may_call_a_gateway_in_a_private_network(http: httpx.AsyncClient) -> None:
    asked = {
        "Origin": _ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
        "Access-Control-Request-Private-Network": "true",
    }
    response = await http.options("/v1/chat/completions", headers=asked)
    assert response.status_code == 200, response.text
    assert response.headers["access-control-allow-private-network"] == "true"


async def test_a_compressed_body_is_refused_with_its_encoding(stack: Stack, http: httpx.AsyncClient, key: Key) -> None:
    response = await http.post(
        "/api/v1/chat", headers={**key.headers, "Content-Encoding": "gzip"}, content=b"\x1f\x8b\x08\x00"
    )
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (415, "unsupported_content_encoding")
    assert "gzip" in error["message"]
    assert response.headers["accept-encoding"] == "identity"
    plain = {**key.headers, "Content-Encoding": "identity"}
    assert (await http.post("/api/v1/chat", headers=plain, json=say("hi"))).status_code == 200
    assert await stack.until_settled(key) == (1, 0)


@pytest.mark.long
async def test_refused_requests_are_limited_by_key_never_counted_and_do_not_affect_other_keys(strict: Stack) -> None:
    key, other = await strict.create_key(), await strict.create_key()
    answers = await _asked(strict, key, {}, times=12)
    stopped = [one for one in answers if one.status_code == 429]
    assert [one.status_code for one in answers[:5]] == [400] * 5, "a burst is harmless"
    assert len(stopped) >= 4
    assert {one.json()["error"]["code"] for one in stopped} == {"too_many_invalid_requests"}
    assert all(int(one.headers["retry-after"]) >= 1 for one in stopped)
    assert [one.status_code for one in await _asked(strict, other, say("hi"), times=1)] == [200]
    assert await strict.until_settled(key) == (0, 0)
    assert strict.ledger(key) == []


@pytest.mark.long
async def test_requests_that_groq_refuses_count_as_refused_too(strict: Stack) -> None:
    key = await strict.create_key()
    statuses = Counter(
        one.status_code for one in await _asked(strict, key, say("[[standin:context_length]]"), times=12)
    )
    assert set(statuses) == {400, 429}
    assert statuses[429] >= 4
    assert await strict.until_settled(key) == (0, 0)


async def _asked(stack: Stack, key: Key, body: dict[str, Any], *, times: int) -> list[httpx.Response]:
    """Send a body repeatedly, one after the other."""
    async with httpx.AsyncClient(base_url=stack.base_url, trust_env=False, timeout=20) as http:
        return [await http.post("/api/v1/chat", headers=key.headers, json=body) for _ in range(times)]


@pytest.mark.long
async def test_incomplete_bodies_hold_no_more_memory_than_the_bound_and_free_it(strict: Stack) -> None:
    """250 connections of one key, each a byte short, used to hold 1.1 GB."""
    key, other = await strict.create_key(), await strict.create_key()
    gateway = _gateway(strict)
    async with httpx.AsyncClient(base_url=strict.base_url, trust_env=False, timeout=20) as http:
        await http.post("/api/v1/chat", headers=key.headers, json=say("hi"))
        before = gateway.memory_info().rss
        ends = await asyncio.gather(*(_all_but_one_byte(strict, key) for _ in range(250)))
        answers = [asyncio.create_task(reader.readline()) for reader, _ in ends]
        kept = await _pending(answers, count_max=16)
        held = gateway.memory_info().rss - before
        assert {int(one.result().split()[1]) for one in answers if one.done()} == {429}
        assert 0 < len(kept) <= 16, "more than 64 MiB are held"
        for one in kept:
            one.cancel()
        assert (await http.post("/api/v1/chat", headers=other.headers, json=say("hi"))).status_code == 200
        for _, writer in ends:
            writer.close()
    assert held < 200 * _MEBIBYTE, f"{held / _MEBIBYTE:.0f} MiB are held"
    left = await _until_given_back(gateway, before)
    print(f"held {held / _MEBIBYTE:.0f} MiB, {left / _MEBIBYTE:.0f} MiB afterwards")
    assert left < 40 * _MEBIBYTE
    assert await strict.until_settled(key) == (1, 0)


async def _all_but_one_byte(stack: Stack, key: Key) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a body except for its last byte, and return the connection."""
    host, port = re.findall(r"//(.+):(\d+)", stack.base_url)[0]
    reader, writer = await asyncio.open_connection(host, int(port))
    size = 4 * _MEBIBYTE
    fields = "".join(f"{name}: {value}\r\n" for name, value in key.headers.items())
    writer.write(f"POST /api/v1/chat HTTP/1.1\r\nhost: a\r\n{fields}content-length: {size}\r\n\r\n".encode())
    writer.write(b" " * (size - 1))
    return reader, writer


async def _pending(answers: Sequence["asyncio.Task[bytes]"], *, count_max: int) -> set["asyncio.Task[bytes]"]:
    """Return the answers that have not come once at most `count_max` have not, or after half a minute."""
    pending = set(answers)
    async with asyncio.timeout(30):
        while len(pending) > count_max:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    # Others would come now, too.
    _, pending = await asyncio.wait(pending, timeout=1)
    return pending


async def _until_given_back(process: psutil.Process, before: int) -> int:
    """Wait for memory to shrink; return the increase."""
    for _ in range(100):
        left = process.memory_info().rss - before
        if left < 40 * _MEBIBYTE:
            break
        await asyncio.sleep(0.1)
    return left


def _gateway(stack: Stack) -> psutil.Process:
    """Return the process that listens at the gateway's port."""
    port = int(stack.base_url.rpartition(":")[2])
    for process in psutil.Process().children(recursive=True):
        if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in process.net_connections("tcp")):
            return process
    raise AssertionError(f"nothing listens at {port}")
