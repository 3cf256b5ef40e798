"""Alerts to owners in a running stack of two workers: each arrives once by mail and once at the webhook."""

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any

import httpx
import pytest

from services.common.rpc.channel import open_channel
from stack.auth.v1 import keys_pb2
from stack.auth.v1.keys_pb2_grpc import KeyServiceStub
from tests.e2e.stack import Key, Stack, running_stack, say
from tests.integration.test_auth_mail import Mailbox, mail_server
from tests.ports import free_port

pytestmark = pytest.mark.xdist_group("alerts")
_KINDS = "limit_80,limit_100,expiry,idle"
_SECONDS = 30
_QUIET_SECONDS = 3
"""Several runs, in which nothing may be sent twice."""


@pytest.fixture(scope="module")
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture(scope="module")
def running(mailbox: Mailbox) -> Iterator[Stack]:
    """Yield two workers with a mail server, which may send to this machine."""
    port = free_port()
    with (
        mail_server(mailbox, port),
        running_stack(
            workers=2,
            AUTH_SMTP_URL=f"smtp://127.0.0.1:{port}",
            AUTH_MAIL_FROM="stack@example.com",
            GATEWAY_ALERT_SECONDS="1",
            INFERENCE_WEBHOOK_ADDRESSES_ALLOWED='["127.0.0.0/8"]',
        ) as stack,
    ):
        yield stack


class Owner:
    """An account with a key, its webhook's receiver, and what arrived for it."""

    def __init__(self, stack: Stack, mailbox: Mailbox, email: str, key: Key) -> None:
        self.stack = stack
        self.mailbox = mailbox
        self.email = email
        self.key = key
        self.events: list[dict[str, Any]] = []
        self.event_ids: list[str] = []

    @property
    def subjects(self) -> list[str]:
        """Subjects of the e-mails to the owner."""
        return [str(mail["Subject"]) for mail in self.mails]

    @property
    def mails(self) -> list[EmailMessage]:
        """The e-mails to the owner."""
        return [mail for mail in self.mailbox.messages if mail["To"] == self.email]

    async def chat(self, count: int, *, gateway: int = 0) -> list[int]:
        """Send chats and return their statuses."""
        url = f"{self.stack.gateways[gateway]}/api/v1/chat"
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            return [(await http.post(url, headers=self.key.headers, json=say("hi"))).status_code for _ in range(count)]

    async def arrived(self, count: int) -> None:
        """Wait for that number of e-mails and of events, and check that no further ones come."""
        async with asyncio.timeout(_SECONDS):
            while len(self.mails) < count or len(self.events) < count:
                await asyncio.sleep(0.1)
        await asyncio.sleep(_QUIET_SECONDS)
        assert (len(self.mails), len(self.events)) == (count, count), (self.subjects, self.events)
        assert len(set(self.event_ids)) == count


@pytest.fixture
async def owner(running: Stack, mailbox: Mailbox, request: pytest.FixtureRequest) -> AsyncIterator[Owner]:
    """Yield an owner who wants all alerts by both ways."""
    email = f"{abs(hash(request.node.name))}@example.com"
    owner = Owner(running, mailbox, email, await running.create_account_key(email))

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        owner.events.append(json.loads(await reader.readexactly(int(headers["content-length"]))))
        owner.event_ids.append(headers["webhook-id"])
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/alerts"
    async with server, httpx.AsyncClient(base_url=running.base_url, trust_env=False, timeout=20) as http:
        answer = await http.post("/api/v1/usage/webhook", headers=owner.key.headers, json={"url": url})
        assert answer.status_code == 200, answer.text
        _set(running, "accounts", owner.key.account_id, alert_webhook=_KINDS, email_verified_at=_moment(0))
        yield owner


def _moment(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%d %H:%M:%S.%f")


def _set(stack: Stack, table: str, row_id: str, **values: str) -> None:
    """Change a row of auth's database, for times that cannot be reached otherwise."""
    columns = ", ".join(f"{name} = ?" for name in values)
    with contextlib.closing(sqlite3.connect(stack.settings.data_dir / "auth.db", timeout=10)) as database:
        changed = database.execute(f"UPDATE {table} SET {columns} WHERE id = ?", (*values.values(), row_id))
        database.commit()
        assert changed.rowcount == 1


async def _limit(stack: Stack, key: Key, daily_limit: int) -> None:
    async with open_channel(stack.settings.auth_listen) as channel:
        request = keys_pb2.SetKeyLimitRequest(key_id=key.id, daily_limit=daily_limit)
        await KeyServiceStub(channel).SetKeyLimit(request, metadata=stack.admin_metadata, timeout=5)


@pytest.mark.long
async def test_80_and_100_percent_of_a_limit_are_alerted_once_each(running: Stack, owner: Owner) -> None:
    await _limit(running, owner.key, 5)
    await asyncio.sleep(1)

    assert await owner.chat(4) == [200] * 4
    await owner.arrived(1)
    assert owner.subjects == ['The API key "test" has used 80 % of a limit']
    event = owner.events[0]
    assert event["type"] == "alert.limit_80"
    limit = {"scope": "key", "unit": "requests", "window": "day", "limit": 5, "used": 4}
    assert event["data"]["limit"] == limit
    assert (event["data"]["key_id"], event["data"]["id"]) == (owner.key.id, owner.event_ids[0])

    assert await owner.chat(2, gateway=1) == [200, 429]
    await owner.arrived(2)
    assert owner.subjects[1] == 'The API key "test" has used up a limit'
    assert owner.events[1]["type"] == "alert.limit_100"
    part = owner.mails[1].get_body(("plain",))
    assert part is not None
    assert "has used 5 requests of 5 requests per day" in str(part.get_content()).replace("\n", " ")


@pytest.mark.long
async def test_an_expiry_is_alerted_a_week_and_a_day_before(running: Stack, owner: Owner) -> None:
    _set(running, "api_keys", owner.key.id, expires_at=_moment(6))
    await owner.arrived(1)
    assert owner.subjects == ['Your API key "test" expires in less than 7 days']

    _set(running, "api_keys", owner.key.id, expires_at=_moment(0.9))
    await owner.arrived(2)
    assert owner.subjects[1] == 'Your API key "test" expires in less than a day'
    assert [event["data"]["days"] for event in owner.events] == [7, 1]


@pytest.mark.long
async def test_a_use_after_thirty_idle_days_is_alerted(running: Stack, owner: Owner) -> None:
    _set(running, "api_keys", owner.key.id, created_at=_moment(-40))

    assert await owner.chat(2) == [200] * 2

    await owner.arrived(1)
    assert owner.subjects == ['Your API key "test" was used again']
    assert (owner.events[0]["type"], owner.events[0]["data"]["key_id"]) == ("alert.idle", owner.key.id)


@pytest.mark.long
async def test_an_owner_who_wants_no_alerts_gets_none(running: Stack, owner: Owner) -> None:
    _set(running, "accounts", owner.key.account_id, alert_webhook="", alert_mail="")
    await _limit(running, owner.key, 1)
    await asyncio.sleep(1)

    assert await owner.chat(1) == [200]

    await owner.arrived(0)


async def test_a_webhook_at_a_private_address_is_refused(running: Stack, owner: Owner) -> None:
    async with httpx.AsyncClient(base_url=running.base_url, trust_env=False, timeout=20) as http:
        for url in ("https://10.0.0.1/alerts", "http://192.168.1.1/alerts", "https://[fd00::1]/alerts"):
            answer = await http.post("/api/v1/usage/webhook", headers=owner.key.headers, json={"url": url})
            assert answer.status_code == 400, url


@pytest.mark.long
async def test_no_alert_is_lost_or_repeated_when_a_worker_is_killed(running: Stack, owner: Owner) -> None:
    """The worker that has the run dies with it, or the other one goes on."""
    await _limit(running, owner.key, 5)
    await asyncio.sleep(1)
    started_at = time.monotonic()

    assert await owner.chat(4) == [200] * 4
    running.kill("stack-2")
    running.start("stack-2")
    await running.until_ready("stack-2")
    assert await owner.chat(1, gateway=1) == [200]

    async with asyncio.timeout(150):  # The lease of a run is two minutes.
        while not any(event["type"] == "alert.limit_100" for event in owner.events):
            await asyncio.sleep(0.1)
    print(f"\nalerted {time.monotonic() - started_at:.1f} s after the first request")
    await asyncio.sleep(_QUIET_SECONDS)
    kinds = [event["type"] for event in owner.events]
    assert kinds in (["alert.limit_100"], ["alert.limit_80", "alert.limit_100"]), kinds
    assert len(owner.mails) == len(owner.events)
    assert len(set(owner.event_ids)) == len(kinds)
