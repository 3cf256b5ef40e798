"""An answer that ends early on purpose is no error in the log."""

import asyncio
import logging
import socket
from typing import Any

import pytest
import uvicorn

from services.gateway import uvicorn_log


async def _cut_short(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"a part", "more_body": True})


async def test_uvicorn_tells_of_an_answer_that_was_not_completed_as_information(
    caplog: pytest.LogCaptureFixture,
) -> None:
    uvicorn_log.install()
    uvicorn_log.install()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(_cut_short, http="httptools", lifespan="off", log_config=None))
    caplog.set_level(logging.INFO, logger="uvicorn.error")
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
    assert b"a part" in await reader.read()
    writer.close()
    server.should_exit = True
    await serving
    told = [record for record in caplog.records if "without completing" in record.getMessage()]
    assert [record.levelname for record in told] == ["INFO"]
    assert len(logging.getLogger("uvicorn.error").filters) == 1
