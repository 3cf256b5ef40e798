"""Plans from sign-up to upgrade: a signed event moves an account, and API and console show its limits."""

import asyncio
import base64
import hmac
import itertools
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.common.limits import parse_limits
from services.common.rpc.channel import open_channel
from services.common.rpc.limits import limit_to_proto
from stack.auth.v1 import plans_pb2, plans_pb2_grpc
from tests.e2e.console.browser import Browser, secret_of
from tests.e2e.stack import Stack, running_stack, say

_ACCOUNTS = itertools.count()
KEY = bytes(range(32))
PATH = "/api/v1/webhooks/plan"


@pytest.fixture(
    scope="module",
    params=[pytest.param(1, id="one process"), pytest.param(0, id="four processes", marks=pytest.mark.long)],
)
def paid(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A stack that receives plan events."""
    secret = f"whsec_{base64.b64encode(KEY).decode()}"
    upgrade = "https://pay.example.com/pro?ref={account_id}&mail={email}"
    with running_stack(workers=request.param, AUTH_PLAN_WEBHOOK_SECRETS=secret, GATEWAY_UPGRADE=upgrade) as running:
        yield running


def an_email() -> str:
    """Return an address that no other test uses."""
    return f"plans{next(_ACCOUNTS)}@example.com"


async def send(stack: Stack, event: dict[str, Any], *, webhook_id: str, key: bytes = KEY) -> httpx.Response:
    """Send a signed event, as a payment provider does."""
    body, timestamp = json.dumps(event).encode(), str(int(time.time()))
    digest = hmac.digest(key, f"{webhook_id}.{timestamp}.".encode() + body, sha256)
    headers = {
        "webhook-id": webhook_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
    async with httpx.AsyncClient(base_url=stack.base_url, trust_env=False, timeout=20) as client:
        return await client.post(PATH, content=body, headers=headers)


def changed(account: str, plan: str, *, at: float | None = None) -> dict[str, Any]:
    """Return an event that moves an account to a plan."""
    timestamp = datetime.fromtimestamp(time.time() if at is None else at, UTC).isoformat()
    return {"type": "account.plan_changed", "timestamp": timestamp, "data": {"account": account, "plan": plan}}


async def set_pro(stack: Stack, *limits: str) -> None:
    """Give the plan `pro` limits."""
    async with open_channel(stack.settings.auth_listen) as channel:
        plan = plans_pb2.Plan(
            name="pro", daily_limit=7_000, account_daily_limit=9_000, limits=map(limit_to_proto, parse_limits(limits))
        )
        request = plans_pb2.SetPlanRequest(plan=plan)
        await plans_pb2_grpc.PlanServiceStub(channel).SetPlan(request, metadata=stack.admin_metadata, timeout=5)


@pytest.mark.long
async def test_a_payment_moves_an_account_and_its_keys_within_a_second(paid: Stack) -> None:
    limits = ("account:concurrent_requests=20", "account:cost:month=$20", "key:tokens:minute=60000")
    await set_pro(paid, *limits)
    async with Browser(paid) as owner:
        email = an_email()
        await owner.sign_up(email)
        page = (await owner.get("/plan")).text
        assert "Upgrade to Pro" in page
        assert f"mail={email.replace('@', '%40')}" in page
        assert "ref=acc_" in page
        assert "7,000" in page
        secret = secret_of((await owner.submit("/keys", "/keys", {"name": "laptop"})).text)
        bearer = {"authorization": f"Bearer {secret}", "accept": "application/json"}
        before = (await owner.client.get("/api/v1/key", headers=bearer)).json()
        assert (before["name"], before["plan"], before["limit"]) == ("laptop", "free", 1_000)
        assert [limit["limit"] for limit in before["limits"]] == [1_000, 5_000]

        answer = await send(paid, changed(email.upper(), "pro"), webhook_id="evt_move")
        assert (answer.status_code, answer.json()) == (
            200,
            {"object": "plan_event", "id": "evt_move", "status": "applied"},
        )
        await asyncio.sleep(1)

        key = (await owner.client.get("/api/v1/key", headers=bearer)).json()
        assert (key["plan"], key["limit"], key["expires_at"], key["models"]) == ("pro", 7_000, None, [])
        chat = await owner.client.post("/api/v1/chat", headers=bearer, json=say("hi", max_tokens=5))
        assert chat.headers["x-ratelimit-limit-requests"] == "7000"
        async with asyncio.timeout(5):
            while True:
                data = (await owner.client.get("/api/v1/limits", headers=bearer)).json()["data"]
                if not any(limit["held"] for limit in data):
                    break
                await asyncio.sleep(0.05)
        listed = {":".join(filter(None, (one["scope"], one["unit"], one["window"]))): one for one in data}
        assert {name: one["limit"] for name, one in listed.items()} == {
            "key:requests:day": 7_000,
            "account:requests:day": 9_000,
            "account:concurrent_requests": 20,
            "account:cost:month": 20_000_000,
            "key:tokens:minute": 60_000,
        }
        for name in ("key:requests:day", "account:requests:day"):
            assert (listed[name]["used"], listed[name]["remaining"]) == (1, listed[name]["limit"] - 1)
        assert listed["key:tokens:minute"]["used"] == chat.json()["usage"]["total_tokens"]
        concurrent = listed["account:concurrent_requests"]
        assert (concurrent["used"], concurrent["resets_at"], concurrent["reset_in_seconds"]) == (0, None, None)
        assert 0 < listed["key:tokens:minute"]["reset_in_seconds"] <= 60

        page = (await owner.get("/plan")).text
        assert "Upgrade to Pro" not in page
        assert "Requests in progress, account" in page
        assert "$20.00" in page
        assert "at most 60,000 tokens per minute" in (await owner.get("/keys")).text
        audit = (await owner.get("/account")).text
        assert "Plan changed" in audit
        assert ">webhook<" in audit


async def test_each_event_counts_once_and_an_older_one_does_not_override_a_newer_one(paid: Stack) -> None:
    async with Browser(paid) as owner:
        email, now = an_email(), time.time()
        await owner.sign_up(email)
        upgraded, cancelled = changed(email, "pro", at=now - 60), changed(email, "free", at=now - 30)

        async def plan() -> str:
            page = (await owner.get("/account")).text
            return "pro" if '<span class="tag good">pro</span>' in page else "free"

        assert (await send(paid, cancelled, webhook_id=f"c {email}")).json()["status"] == "applied"
        assert (await send(paid, upgraded, webhook_id=f"u {email}")).json()["status"] == "stale"
        assert await plan() == "free"
        again = changed(email, "pro", at=now - 10)
        statuses = await asyncio.gather(*(send(paid, again, webhook_id=f"a {email}") for _ in range(8)))
        assert sorted(one.json()["status"] for one in statuses) == ["applied"] + ["duplicate"] * 7
        assert await plan() == "pro"
        assert (await owner.get("/account")).text.count("Plan changed") == 2


async def test_a_forged_or_malformed_event_changes_nothing(paid: Stack) -> None:
    forged = await send(paid, changed("ada@example.com", "pro"), webhook_id="evt_forged", key=b"x" * 32)
    assert (forged.status_code, forged.json()["error"]["code"]) == (403, "invalid_signature")
    unknown = await send(paid, changed(an_email(), "pro"), webhook_id="evt_unknown")
    assert (unknown.status_code, "No account" in unknown.json()["error"]["message"]) == (404, True)
    malformed = await send(paid, {"type": "account.plan_changed"}, webhook_id="evt_malformed")
    assert malformed.status_code == 400
    large = await send(paid, {"type": "x" * 70_000}, webhook_id="evt_large")
    assert (large.status_code, "Send one plan event." in large.json()["error"]["message"]) == (413, True)
    async with httpx.AsyncClient(base_url=paid.base_url, trust_env=False) as client:
        assert (await client.post(PATH)).status_code == 403
        assert (await client.get(PATH)).status_code == 405


async def test_without_a_secret_the_path_does_not_exist_and_no_upgrade_is_offered(stack: Stack) -> None:
    refused = await send(stack, changed("ada@example.com", "pro"), webhook_id="evt_1")
    async with httpx.AsyncClient(base_url=stack.base_url, trust_env=False) as client:
        unknown = await client.post("/api/v1/webhooks/other")
    assert refused.status_code == unknown.status_code == 404
    shown, other = refused.json()["error"], unknown.json()["error"]
    assert {**shown, "message": ""} == {**other, "message": ""}
    assert shown["message"].replace("plan", "other") == other["message"]
    async with Browser(stack) as owner:
        await owner.sign_up(an_email())
        page = (await owner.get("/plan")).text
    assert "Limits" in page
    assert "Upgrade" not in page


async def test_the_documented_example_forwards_events_of_stripe(paid: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "plans.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.setenv("STACK_URL", paid.base_url)
    monkeypatch.setenv("STACK_WEBHOOK_SECRET", f"whsec_{base64.b64encode(KEY).decode()}")
    example: dict[str, Any] = {}
    exec(compile(code, "docs/plans.md", "exec"), example)
    async with Browser(paid) as owner:
        email, now = an_email(), int(time.time())
        await owner.sign_up(email)

        async def plan_after(kind: str, subject: dict[str, Any], created: int) -> str:
            event = {"id": f"{kind} {email}", "type": kind, "created": created, "data": {"object": subject}}
            await asyncio.to_thread(example["forward"], event)
            return "pro" if '<span class="tag good">pro</span>' in (await owner.get("/account")).text else "free"

        assert await plan_after("checkout.session.completed", {"client_reference_id": email}, now - 2) == "pro"
        assert await plan_after("customer.subscription.deleted", {"metadata": {"account_id": email}}, now - 1) == "free"
