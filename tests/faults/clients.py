"""Clients of every surface that record exactly what they received."""

import asyncio
import json
import time
from dataclasses import dataclass

import aiohttp

from tests.e2e.stack import Key
from tests.faults.answers import Answer, EventLines
from tests.faults.readers import READERS, ChatReader
from tests.faults.schedule import Leave, Request, body

_PATIENCE_SECONDS = 20.0
"""More than the sum of all internal deadlines: an answer that takes longer hangs."""


@dataclass(slots=True)
class Result(Answer):
    """The record of one client: what it sent, what it received, and how its connection ended."""

    request: Request
    started_at: float
    """Unix seconds."""
    ended_at: float = 0.0
    remaining: int | None = None
    """The header; None when nothing was reserved."""
    is_cut: bool = False
    """The connection broke before the answer's end."""
    has_left: bool = False
    hangs: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether the client has a whole answer. A stream is whole with its last event, even if it is cut later."""
        if self.status != 200 or self.error:
            return False
        if self.request.stream:
            return self.is_done
        return not (self.is_cut or self.has_left or self.hangs)

    def __str__(self) -> str:
        request = self.request
        seen = [name for name in ("is_complete", "is_done", "is_cut", "has_left", "hangs") if getattr(self, name)]
        what = f"{request.surface}, {request.kind.name}{', stream' if request.stream else ''}, leaves {request.leave}"
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
    async with session.post(f"{url}{request.surface.path}", data=data, headers=key.headers) as response:
        # The answer has begun: a client that would have disconnected before it stays.
        limit.reschedule(asyncio.get_running_loop().time() + _PATIENCE_SECONDS)
        result.request_id = response.headers.get("x-request-id", "")
        result.status = response.status
        if remaining := response.headers.get("x-ratelimit-remaining-requests"):
            result.remaining = int(remaining)
        reader = READERS[request.surface](result)
        if response.content_type == "text/event-stream":
            await _read_stream(response, result, reader)
        else:
            _read_whole(await response.read(), reader)


def _read_whole(raw: bytes, reader: ChatReader) -> None:
    try:
        value = json.loads(raw)
    except ValueError:
        reader.answer.oddities.append(f"not JSON: {raw[:200]!r}")
        return
    reader.whole(value)


async def _read_stream(response: aiohttp.ClientResponse, result: Result, reader: ChatReader) -> None:
    lines = EventLines()
    while line := await response.content.readline():
        event = lines.add(line)
        if event is None:
            continue
        reader.event(*event)
        if result.request.leave is Leave.FIRST_CHUNK:
            result.has_left = True
            response.close()
            return
    reader.end()
