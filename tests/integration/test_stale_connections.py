"""Idle connections to Groq that were closed without notice, as by a NAT, fail no request and open no circuit."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.inference_world import running, whole
from tests.integration.raw_upstream import MODELS, completion, json_answer

_BODY = json.dumps(completion()).encode()
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)


@dataclass
class ForgetfulUpstream:
    """A server that answers the first chats together, so that each has a connection, and can forget connections."""

    first: int
    url: str = ""
    has_forgotten: bool = False
    dropped: int = 0
    """Chats on connections that were forgotten."""
    _chats: int = 0
    _have_begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        is_old = not self.has_forgotten
        try:
            while await self._answer(reader, writer, is_old=is_old):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_old: bool) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if head.startswith(b"get "):
            writer.write(json_answer(MODELS))
            return False
        await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        if is_old and self.has_forgotten:
            self.dropped += 1
            writer.transport.abort()
            return False
        self._chats += 1
        if self._chats >= self.first:
            self._have_begun.set()
        await self._have_begun.wait()
        writer.write(_ANSWER)
        return True


@asynccontextmanager
async def forgetful_upstream(first: int) -> AsyncIterator[ForgetfulUpstream]:
    """Run an upstream for the block."""
    upstream = ForgetfulUpstream(first)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield upstream


@pytest.mark.parametrize("chats", [1, 40])
async def test_connections_that_were_closed_without_notice_fail_no_chat(tmp_path: Path, chats: int) -> None:
    async with forgetful_upstream(first=40) as upstream, running(upstream.url, tmp_path) as inference:
        await asyncio.gather(*(inference.create(whole("hello", f"req_first_{n}")) for n in range(40)))
        upstream.has_forgotten = True
        await asyncio.gather(*(inference.create(whole("hello", f"req_then_{n}")) for n in range(chats)))
        assert upstream.dropped
