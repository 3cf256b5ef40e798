"""`stackctl status` and `usage --all` against real services."""

import json
import os
from importlib.metadata import version
from typing import Any

import httpx

from tests.e2e.stack import Stack, say
from tests.forked import run_module


def stackctl(stack: Stack, *arguments: str, **variables: str) -> tuple[int, dict[str, Any]]:
    """Run a command with `--json`, and return its exit code and what it printed."""
    settings = stack.settings
    targets = {
        "AUTH_TARGET": settings.auth_listen,
        "QUOTA_TARGET": settings.quota_listen,
        "INFERENCE_TARGET": settings.inference_listen,
        "STACK_ADMIN_TOKEN": stack.admin_metadata[0][1].removeprefix("Bearer "),
    }
    done = run_module("services.cli", *arguments, "--json", environment=dict(os.environ) | targets | variables)
    return done.returncode, json.loads(done.stdout)


async def test_status_shows_versions_dependencies_and_queues_of_all_services(stack: Stack) -> None:
    code, shown = stackctl(stack, "status")

    assert code == 0, shown
    services = {one["service"]: one for one in shown["services"]}
    assert {name: one["state"] for name, one in services.items()} == dict.fromkeys(("auth", "quota", "inference"), "ok")
    assert {one["version"] for one in services.values()} == {version("stack-api")}
    states = {name: {one["name"]: one["state"] for one in found["dependencies"]} for name, found in services.items()}
    assert states == {
        "auth": {"database": "ok", "mail": "none"},
        "quota": {"redis": "ok"},
        "inference": {"database": "ok", "groq": "ok"},
    }
    assert set(services["inference"]["queues"]) == {"requests for Groq", "ledger rows"}


async def test_status_names_a_service_that_does_not_respond_and_exits_with_3(stack: Stack) -> None:
    code, shown = stackctl(stack, "status", QUOTA_TARGET="127.0.0.1:1")

    assert code == 3
    (quota,) = [one for one in shown["services"] if one["service"] == "quota"]
    assert quota["state"] == "unreachable"
    assert "set QUOTA_TARGET" in quota["message"]


async def test_usage_of_all_accounts_is_the_sum_of_their_rows(stack: Stack) -> None:
    before = _requests(stackctl(stack, "usage", "--all")[1])
    keys = [await stack.create_account_key(f"all-{number}@example.com") for number in range(2)]
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        for key in keys:
            answer = await client.post(f"{stack.base_url}/api/v1/chat", headers=key.headers, json=say("hi"))
            assert answer.status_code == 200

    code, shown = stackctl(stack, "usage", "--all", "--days", "2")

    assert code == 0
    assert _requests(shown) - before >= 2
    assert {"day", "model", "surface", "charged_requests", "cost_usd"} <= set(shown["days"][0])


def _requests(shown: dict[str, Any]) -> int:
    return sum(day["charged_requests"] for day in shown["days"])
