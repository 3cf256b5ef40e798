"""Starts the real stand-in and calls it as a raw client."""

import contextlib
import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[3]
CHAT = "/openai/v1/chat/completions"
OSS = "openai/gpt-oss-20b"
QWEN = "qwen/qwen3.8-27b"
KEY = {"authorization": "Bearer gsk_tests"}
COMMAND = [sys.executable, "-m", "tools.groq_standin"]
_DEADLINE_SECONDS = 10.0


@contextlib.contextmanager
def started(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a stand-in on a free port; yield the process and its URL."""
    command = [*COMMAND, "--port", "0", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], _DEADLINE_SECONDS)
            line = process.stdout.readline() if ready else ""
            assert line.startswith("groq stand-in listening on http://127.0.0.1:"), line
            yield process, line.split()[-1]
        finally:
            process.terminate()
            process.wait(_DEADLINE_SECONDS)


def request(text: str = "hello", **more: Any) -> dict[str, Any]:
    """Return a chat request; `more` may replace `model` and `messages`."""
    return {"model": OSS, "messages": [{"role": "user", "content": text}]} | more


def payloads(body: str) -> list[Any]:
    """Return the JSON of each `data:` line, `[DONE]` as a string."""
    lines = (line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: "))
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def deltas(body: str, key: str) -> str:
    """Return the text of a stream under `key` of its deltas."""
    chunks = [chunk for chunk in payloads(body) if chunk != "[DONE]" and chunk.get("choices")]
    return "".join(chunk["choices"][0]["delta"].get(key) or "" for chunk in chunks)


@dataclass(frozen=True)
class StandIn:
    """A running stand-in and one client of it."""

    url: str
    client: httpx.Client

    def post(self, body: dict[str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
        """Send a chat request and read the whole answer."""
        return self.client.post(CHAT, json=body, headers=KEY if headers is None else headers)

    def say(self, text: str, **more: Any) -> httpx.Response:
        """Send one user message and read the whole answer."""
        return self.post(request(text, **more))

    def refusal(self, **changes: Any) -> dict[str, Any]:
        """Return the error of a request that the validator must refuse with 400."""
        response = self.post(request(**changes))
        assert response.status_code == 400, response.text
        error: dict[str, Any] = response.json()["error"]
        return error

    def entry(self, text: str) -> dict[str, Any]:
        """Return the ended journal entry of the last request whose text was `text`."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while time.monotonic() < deadline:
            found = [entry for entry in self.client.get("/journal").json() if entry["last_user_message"] == text]
            if found and found[-1]["ended_at"]:
                last: dict[str, Any] = found[-1]
                return last
            time.sleep(0.005)
        raise AssertionError(f"no ended journal entry for {text!r}")

    def raw(self, text: str, **more: Any) -> bytes:
        """Return every byte the server sends to a plain socket until it closes or resets the connection."""
        body = json.dumps(request(text, **more)).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer gsk_tests\r\nconnection: close\r\n"
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=_DEADLINE_SECONDS) as connection:
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            received = b""
            while data := connection.recv(65536):
                received += data
        return received


def http_chunks(raw: bytes) -> list[bytes]:
    """Return the chunks of a chunked answer; the stand-in makes one for each write."""
    _, _, rest = raw.partition(b"\r\n\r\n")
    found = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        found.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return found
