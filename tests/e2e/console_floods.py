"""Floods of cheap requests to the console, and their effect on operators and chats."""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp

from tests.e2e.stack import EMAIL, Key, Stack, bare_environment, say

CONNECTIONS = 80


@dataclass
class Flood:
    """The responses to a flood, updated as it runs."""

    statuses: Counter[int] = field(default_factory=Counter)
    began_at: float = field(default_factory=time.monotonic)

    def summary(self) -> str:
        """Describe it."""
        seconds = time.monotonic() - self.began_at
        return f"{self.statuses.total() / seconds:,.0f} requests/s, {dict(self.statuses)}"


@asynccontextmanager
async def flooded(url: str, request: bytes, *, connections: int = CONNECTIONS) -> AsyncIterator[Flood]:
    """Send a request repeatedly on so many connections for the block, each as soon as the last response has arrived."""
    flood = Flood()
    tasks = [asyncio.create_task(_ask_on(url, request, flood)) for _ in range(connections)]
    await asyncio.sleep(1)  # Wait until all of them are connected and the first responses have arrived.
    try:
        yield flood
        assert not any(task.done() for task in tasks), "a connection of the flood ended"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ask_on(url: str, request: bytes, flood: Flood) -> None:
    parsed = urlsplit(url)
    while True:
        reader, writer = await asyncio.open_connection(parsed.hostname, parsed.port)
        try:
            while True:
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                await reader.readexactly(length)
                flood.statuses[int(head.split(b" ", 2)[1])] += 1
                if b"connection: close" in head:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            flood.statuses[0] += 1
        finally:
            writer.close()


def form(path: str, fields: str, *, cookie: str = "", host: str = "127.0.0.1") -> bytes:
    """Return a form as a browser sends it."""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    cookies = f"Cookie: {cookie}\r\n" if cookie else ""
    return f"{head}{cookies}Content-Length: {len(fields)}\r\n\r\n{fields}".encode()


def page(path: str, *, cookie: str = "", host: str = "127.0.0.1") -> bytes:
    """Return a request for a page."""
    cookies = f"Cookie: {cookie}\r\n" if cookie else ""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/html\r\n{cookies}\r\n".encode()


def stackctl(stack: Stack, *arguments: str) -> "subprocess.Popen[str]":
    """Start `stackctl` as an operator does."""
    token = stack.admin_metadata[0][1].removeprefix("Bearer ")
    environment = {**bare_environment(), "AUTH_TARGET": stack.settings.auth_listen, "STACK_ADMIN_TOKEN": token}
    command = [sys.executable, "-m", "services.cli", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@dataclass
class Chats:
    """The statuses and durations of chats during a flood."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def p50(self) -> float:
        """The median in seconds."""
        return statistics.median(self.seconds)

    def summary(self) -> str:
        """Describe it."""
        return f"chats {dict(self.statuses)}, p50 {self.p50:.3f} s, slowest {max(self.seconds):.3f} s"


async def chats(session: aiohttp.ClientSession, url: str, keys: list[Key]) -> Chats:
    """Call with one key after the other."""
    seen = Chats()
    for key in keys:
        began = time.perf_counter()
        async with session.post(f"{url}/api/v1/chat", headers=key.headers, json=say("hi")) as response:
            await response.read()
        seen.seconds.append(time.perf_counter() - began)
        seen.statuses[response.status] += 1
    return seen


async def created_and_revoked(stack: Stack, session: aiohttp.ClientSession, url: str) -> float:
    """Create a key with `stackctl`, use it, revoke it, and return how many seconds after that it was still answered."""
    made = await asyncio.to_thread(
        stackctl(stack, "keys", "create", "--email", EMAIL, "--name", "x", "--json").communicate
    )
    assert '"key"' in made[0], made
    facts = json.loads(made[0])
    key = Key(facts["id"], facts["key"])
    assert (await chats(session, url, [key])).statuses == {200: 1}
    revoking = stackctl(stack, "keys", "revoke", "--yes", key.id, "--json")
    out, err = await asyncio.to_thread(revoking.communicate)
    revoked_at = time.monotonic()
    assert "revoked_at" in out, (out, err)
    while (await chats(session, url, [key])).statuses[200]:
        assert time.monotonic() - revoked_at < 10
    return time.monotonic() - revoked_at
