"""Clients that record exactly what they received."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.e2e.stack import Key
from tests.faults.schedule import Leave, Request, body

_PATIENCE_SECONDS = 20.0
"""More than the sum of all internal deadlines: an answer that takes longer hangs."""
_OUTPUT = ("content", "reasoning", "tool_calls", "function_call")
"""Members of a delta with content."""


@dataclass(slots=True)
class Result:
    """The record of one client."""

    request: Request
    started_at: float
    """Unix seconds."""
    ended_at: float = 0.0
    request_id: str = ""
    status: int | None = None
    """None when there was no answer."""
    remaining: int | None = None
    """The header; None when nothing was reserved."""
    error: dict[str, Any] | None = None
    """The error object of the answer, or of a stream's error event."""
    is_done: bool = False
    """A stream ended with `[DONE]`."""
    has_output: bool = False
    """Whether a stream sent content."""
    has_finished: bool = False
    """Whether a stream sent its finish reason."""
    is_cut: bool = False
    """The connection broke before the answer's end."""
    has_left: bool = False
    hangs: bool = False
    usage: dict[str, Any] | None = None
    oddities: list[str] = field(default_factory=list)
    """Faults of the answer's format."""

    @property
    def is_complete(self) -> bool:
        """Whether it was answered to the end."""
        if self.status != 200 or self.is_cut or self.has_left or self.error or self.hangs:
            return False
        return self.is_done if self.request.stream else True

    @property
    def code(self) -> str:
        """Code of its error."""
        return str((self.error or {}).get("code") or "")

    def __str__(self) -> str:
        request = self.request
        seen = [name for name in ("is_complete", "is_done", "is_cut", "has_left", "hangs") if getattr(self, name)]
        what = f"{request.kind.name}{', stream' if request.stream else ''}, leaves {request.leave}"
        return f"request {request.number} ({what}; {self.request_id}): {self.status} {self.code} {' '.join(seen)}"


async def send(session: aiohttp.ClientSession, url: str, key: Key, request: Request, tag: str) -> Result:
    """Send a request and follow it to its end, or until its client disconnects."""
    result = Result(request, started_at=time.time())
    patience = request.leave_after if request.leave is Leave.BEFORE_ANSWER else _PATIENCE_SECONDS
    try:
        async with asyncio.timeout(patience) as limit:
            await _exchange(session, url, key, request, tag, result, limit)
    except TimeoutError:
        result.has_left = request.leave is Leave.BEFORE_ANSWER and result.status is None
        result.hangs = not result.has_left
    except (aiohttp.ClientError, ConnectionError):
        result.is_cut = True
    result.ended_at = time.time()
    return result


async def _exchange(
    session: aiohttp.ClientSession,
    url: str,
    key: Key,
    request: Request,
    tag: str,
    result: Result,
    limit: asyncio.Timeout,
) -> None:
    value = body(request, tag)
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    async with session.post(f"{url}/api/v1/chat/completions", data=data, headers=key.headers) as response:
        # The answer has begun: a client that would have disconnected before it stays.
        limit.reschedule(asyncio.get_running_loop().time() + _PATIENCE_SECONDS)
        result.request_id = response.headers.get("x-request-id", "")
        result.status = response.status
        if remaining := response.headers.get("x-ratelimit-remaining-requests"):
            result.remaining = int(remaining)
        if response.content_type == "text/event-stream":
            await _read_stream(response, request, result)
        else:
            _read_whole(await response.read(), result)


def _read_whole(raw: bytes, result: Result) -> None:
    try:
        answer = json.loads(raw)
    except ValueError:
        result.oddities.append(f"not JSON: {raw[:200]!r}")
        return
    result.error = answer.get("error")
    result.usage = answer.get("usage")
    if result.status == 200 and not answer.get("choices"):
        result.oddities.append(f"200 without an answer: {raw[:200]!r}")
    if result.status != 200 and not result.error:
        result.oddities.append(f"a failure without an error: {raw[:200]!r}")


async def _read_stream(response: aiohttp.ClientResponse, request: Request, result: Result) -> None:
    while line := await response.content.readline():
        if not line.startswith(b"data: "):
            continue
        if result.is_done or result.error:
            result.oddities.append(f"an event after the end: {line[:200]!r}")
        _note_event(line.removeprefix(b"data: ").strip(), result)
        if request.leave is Leave.FIRST_CHUNK:
            result.has_left = True
            response.close()
            return
    if not result.is_done and not result.error:
        result.oddities.append("the stream ended in order without [DONE] and without an error")


def _note_event(data: bytes, result: Result) -> None:
    if data == b"[DONE]":
        result.is_done = True
        return
    event = json.loads(data)
    for choice in event.get("choices") or ():
        if result.has_finished and choice["delta"]:
            result.oddities.append(f"output after the finish reason: {data[:200]!r}")
        result.has_output = result.has_output or any(choice["delta"].get(name) for name in _OUTPUT)
        result.has_finished = result.has_finished or bool(choice.get("finish_reason"))
    result.error = event.get("error") or result.error
    result.usage = event.get("usage") or result.usage
