"""For any malformed upstream answer, no log line, metric, trace or error text contains its secrets."""

import asyncio
import io
import logging
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from prometheus_client import REGISTRY, generate_latest

from services.common.errors import ServiceError
from services.common.telemetry.log import JSONLine
from stack.inference.v1 import inference_pb2
from tests.integration.inference_world import Inference, chat, context, running
from tests.integration.raw_upstream import (
    answer,
    chunk,
    completion,
    delta,
    events,
    json_answer,
    raw_upstream,
    stream_head,
)

KEY, PROMPT, ANSWER, PROXY = "gsk_CANARYkey", "CANARYprompt", "CANARYanswer", "CANARYproxy"
CANARIES = (KEY, PROMPT, ANSWER, PROXY)
_TEXT = ANSWER.encode()


def framed(body: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(body), body)


_BEGUN = stream_head() + framed(events(chunk(delta(content=ANSWER)), done=False))
MALFORMED: dict[str, bytes] = {
    "a header over 8 KB": b"HTTP/1.1 200 OK\r\nx-a: " + _TEXT * 2_000 + b"\r\n\r\n",
    "a bad status line": b"HTTP/9 " + _TEXT + b"\r\n\r\n",
    "a bad header": b"HTTP/1.1 200 OK\r\n" + _TEXT + b"\r\n\r\n",
    "no HTTP": _TEXT * 100,
    "bytes after content-length": answer(b"{}") + _TEXT,
    "a body that is cut": b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n" + _TEXT,
    "a bad content-length": b"HTTP/1.1 200 OK\r\ncontent-length: " + _TEXT + b"\r\n\r\n",
    "a bad chunk": stream_head() + _TEXT + b"\r\n",
    "a bad chunk after output": _BEGUN + _TEXT + b"\r\n",
    "an error event": _BEGUN + framed(b'event: error\ndata: {"error": {"message": "x ' + _TEXT + b'"}}\n\n'),
    "no JSON": answer(_TEXT),
    "no JSON in a stream": stream_head() + framed(b"data: " + _TEXT + b"\n\n"),
    "another form": json_answer(completion(choices=ANSWER)),
    "a wrong encoding": answer(_TEXT, headers="content-encoding: gzip\r\n"),
    "407": answer(_TEXT, status="407 Proxy Authentication Required", headers=f"proxy-authenticate: {PROXY}\r\n"),
    "a redirect": answer(b"", status="302 Found", headers=f"location: http://{PROXY}@127.0.0.1:1/{ANSWER}\r\n"),
    "a refusal of HTML": answer(_TEXT, status="403 Forbidden", content_type="text/html"),
    "a failure with text": json_answer({"error": {"message": ANSWER}}, status="500 Internal Server Error"),
    "nothing": b"",
}


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The output of every logger at DEBUG, as the services write it."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JSONLine("inference"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield text
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


async def asked(inference: Inference, *, is_stream: bool) -> str:
    """Send a secret prompt; return the text of the error, empty when there is none."""
    number = "req_s" if is_stream else "req_w"
    try:
        if is_stream:
            await inference.stream(
                inference_pb2.StreamChatCompletionRequest(context=context(number), chat=chat(PROMPT)), []
            )
        else:
            await inference.create(
                inference_pb2.CreateChatCompletionRequest(context=context(number), chat=chat(PROMPT))
            )
    except ServiceError as exc:
        return f"{exc.message} {exc.reason} {exc.details}"
    return ""


async def error_text(url: str, folder: Path) -> str:
    """Send requests to an upstream in both ways, and return the errors' texts and the metrics."""
    async with running(url, folder, keys=(KEY,), attempts_max=1) as inference:
        errors = [await asked(inference, is_stream=is_stream) for is_stream in (False, True)]
        await inference.chat.ListModels(inference_pb2.ListModelsRequest())
    return " ".join(errors) + generate_latest(REGISTRY).decode()


def assert_silent(text: str, *, allowed: tuple[str, ...] = ()) -> None:
    """Check that no canary is in a text."""
    for canary in CANARIES:
        assert canary in allowed or canary not in text, f"{canary} in {_around(text, canary)}"


def _around(text: str, canary: str) -> str:
    at = text.index(canary)
    return text[max(0, at - 300) : at + 100]


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_answer_exposes_no_secret(name: str, tmp_path: Path, log: io.StringIO) -> None:
    async with raw_upstream(MALFORMED[name]) as upstream:
        text = await error_text(upstream.url, tmp_path)

    assert PROMPT in upstream.bodies[0].decode()
    assert_silent(text)
    assert_silent(log.getvalue())


async def test_a_failed_handshake_exposes_no_secret(tmp_path: Path, log: io.StringIO) -> None:
    context_ = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("other.example").configure_cert(context_)
    async with raw_upstream(b"", tls=context_) as upstream, running(upstream.url, tmp_path, keys=(KEY,)) as inference:
        text = await asked(inference, is_stream=False)

    assert "is unreachable" in text
    assert_silent(text + log.getvalue())


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "403 Forbidden", "200 Connection established"])
async def test_a_refusing_proxy_exposes_no_password(
    status: str, tmp_path: Path, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(refusal)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("https_proxy", f"http://user:{PROXY}@127.0.0.1:{port}")
    monkeypatch.delenv("no_proxy", raising=False)
    async with server, running("https://groq.invalid", tmp_path, keys=(KEY,), attempts_max=1) as inference:
        text = await asked(inference, is_stream=False)

    assert text
    assert_silent(text + log.getvalue())
