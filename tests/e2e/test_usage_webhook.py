"""The usage webhook of an account in a running stack, from setting it to the event."""

import asyncio
import base64
import contextlib
import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from services.auth.accounts.webhook_signatures import SignedMessage, WebhookVerifier
from tests.e2e.stack import Key, Stack, bare_environment, running_stack, say
from tests.forked import run_module

pytestmark = pytest.mark.xdist_group("usage_webhook")
_PATH = "/api/v1/usage/webhook"


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    """Yield a stack that may send to this machine."""
    with running_stack(INFERENCE_WEBHOOK_ADDRESSES_ALLOWED='["127.0.0.0/8"]') as stack:
        yield stack


def _http(stack: Stack, key: Key) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=stack.base_url, headers=key.headers, trust_env=False, timeout=20)


def _end_day(stack: Stack, key: Key, day: str) -> None:
    """Make the webhook due for a day that is over."""
    with contextlib.closing(sqlite3.connect(stack.settings.data_dir / "inference.db", timeout=10)) as database:
        changed = database.execute(
            "UPDATE usage_webhook SET next_day = ?, next_attempt_at = 0 WHERE account_id = ?", (day, key.account_id)
        )
        database.commit()
        assert changed.rowcount == 1


@pytest.mark.long
async def test_the_usage_of_a_day_arrives_signed(running: Stack) -> None:
    received: asyncio.Queue[SignedMessage] = asyncio.Queue()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        webhook_id, timestamp, signature = (headers[name] for name in names)
        received.put_nowait(SignedMessage(webhook_id, timestamp, signature, body))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    key = await running.create_account_key("webhook@example.com")
    today = datetime.now(UTC).date()
    async with server, _http(running, key) as http:
        await http.post("/api/v1/chat", json=say("hi"))
        created = (await http.post(_PATH, json={"url": f"http://127.0.0.1:{port}/usage"})).json()
        assert (created["status"], created["next_day"]) == ("active", today.isoformat())
        _end_day(running, key, today.isoformat())
        message = await asyncio.wait_for(received.get(), 25)
        webhook = created
        async with asyncio.timeout(10):
            while webhook["next_day"] == created["next_day"]:
                webhook = (await http.get(_PATH)).json()

    event = json.loads(message.body)
    secret = base64.b64decode(created["secret"].removeprefix("whsec_"))
    WebhookVerifier([secret]).verify(message, now=datetime.now(UTC))
    assert message.webhook_id == f"{created['id']}-{today}"
    assert (event["type"], event["data"]["total"]["requests"]) == ("usage.day", 1)
    assert webhook["next_day"] == (today + timedelta(days=1)).isoformat()
    assert "secret" not in webhook


async def test_an_account_sets_changes_and_deletes_its_own_webhook_only(running: Stack) -> None:
    key, other = [await running.create_account_key(f"own{number}@example.com") for number in range(2)]
    async with _http(running, key) as http, _http(running, other) as others:
        assert (await http.get(_PATH)).json()["error"]["code"] == "webhook_not_found"
        created = (await http.post(_PATH, json={"url": "https://example.com/a"})).json()
        changed = (await http.post(_PATH, json={"url": "https://example.com/b"})).json()
        assert (changed["id"], changed["url"]) == (created["id"], "https://example.com/b")
        assert ("secret" in created, "secret" in changed) == (True, False)
        assert (await others.get(_PATH)).status_code == 404
        assert (await others.delete(_PATH)).json() == {"object": "usage.webhook", "deleted": False}
        assert (await http.get(_PATH)).json()["url"] == "https://example.com/b"
        assert (await http.delete(_PATH)).json() == {"object": "usage.webhook", "deleted": True}
        assert (await http.get(_PATH)).status_code == 404
        assert (await http.get(_PATH, headers={"Authorization": ""})).status_code == 401


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b'{"url": 1}', b'{"url": "https://a.b", "x": 1}', b'{"url": "https://10.0.0.1/"}', b"\xff"],
)
async def test_an_invalid_url_gets_400(running: Stack, body: bytes) -> None:
    key = await running.create_key()
    async with _http(running, key) as http:
        response = await http.post(_PATH, content=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "url")


async def test_the_webhook_of_a_deleted_account_is_deleted(running: Stack) -> None:
    key = await running.create_account_key("deleted@example.com")
    async with _http(running, key) as http:
        await http.post(_PATH, json={"url": "https://example.com/"})
    environment = {
        **bare_environment(),
        "AUTH_TARGET": running.settings.auth_listen,
        "INFERENCE_TARGET": running.settings.inference_listen,
        "STACK_ADMIN_TOKEN": running.admin_metadata[0][1].removeprefix("Bearer "),
    }
    command = ("services.cli", "accounts", "delete", key.account_id, "--yes")
    done = await asyncio.to_thread(run_module, *command, environment=environment)
    assert done.returncode == 0, done.stderr
    with contextlib.closing(sqlite3.connect(running.settings.data_dir / "inference.db")) as database:
        rows = database.execute("SELECT count(*) FROM usage_webhook WHERE account_id = ?", (key.account_id,))
        assert rows.fetchone() == (0,)
