"""An upstream that answers with any bytes given by the test."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]
"""Bytes to send before the connection is closed, or a function that handles it."""

_CLOSE = "connection: close\r\n"
MODELS = {"object": "list", "data": [{"id": "openai/gpt-oss-20b", "object": "model"}]}


@dataclass
class RawUpstream:
    """A server that answers chats in turn; the last answer is repeated. Its model list is an ordinary one."""

    answers: Sequence[Answer]
    models: bytes = b""
    """The answer for the model list; empty for an ordinary list."""
    bodies: list[bytes] = field(default_factory=list)
    """The bodies of the chats."""
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close the connection."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET "):
                writer.write(self.models or json_answer(MODELS))
                await writer.drain()
                return
            self.bodies.append(await reader.readexactly(_length(head)))
            answer = self.answers[min(len(self.bodies), len(self.answers)) - 1]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def raw_upstream(
    *answers: Answer, models: bytes = b"", tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawUpstream]:
    """Run an upstream with these answers for the block."""
    upstream = RawUpstream(answers, models)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, ssl=tls)
    scheme = "https" if tls else "http"
    upstream.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield upstream


def answer(body: bytes, *, content_type: str = "application/json", status: str = "200 OK", headers: str = "") -> bytes:
    """Return a whole HTTP answer."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n{_CLOSE}{headers}\r\n"
    return head.encode() + body


def json_answer(members: Any, **more: Any) -> bytes:
    """Return a whole HTTP answer with a JSON body."""
    return answer(json.dumps(members).encode(), **more)


def completion(**changes: Any) -> dict[str, Any]:
    """Return an ordinary chat completion of Groq's, with members changed."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    frame = {"id": "chatcmpl-groq", "object": "chat.completion", "created": 5, "model": "m", "choices": [choice]}
    return {**frame, "usage": usage, "x_groq": {"id": "req_groq"}, **changes}


def chunk(*choices: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a chunk of a stream."""
    frame = {"id": "chatcmpl-groq", "object": "chat.completion.chunk", "created": 5, "model": "m"}
    return {**frame, "choices": list(choices), **changes}


def delta(finish_reason: str | None = None, **members: Any) -> dict[str, Any]:
    """Return one choice of a chunk."""
    return {"index": 0, "delta": members, "finish_reason": finish_reason}


def events(*chunks: Any, done: bool = True) -> bytes:
    """Return the events of a stream; bytes are used unchanged."""
    texts = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in chunks]
    return b"".join(b"data: " + text + b"\n\n" for text in [*texts, *([b"[DONE]"] if done else [])])


def stream_answer(body: bytes) -> bytes:
    """Return a whole HTTP answer with a stream, in one HTTP chunk."""
    return stream_head() + (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"


def stream_head() -> bytes:
    """Return the head of a stream."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n{_CLOSE}\r\n"
    return head.encode()


def _length(head: bytes) -> int:
    lines = head.decode().lower().split("\r\n")
    return next((int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")), 0)
