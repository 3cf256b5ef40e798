"""What the ledger and an operator can see of a key's use, with real traffic."""

import asyncio
import json
import sqlite3
import time

import httpx

from tests.e2e.stack import EMAIL, Key, Stack, bare_environment, say
from tests.forked import run_module

CANARY = "a sentence that nobody else would say, 4711"


async def _listed(stack: Stack, key: Key) -> dict[str, object]:
    environment = {
        **bare_environment(),
        **stack.environment,
        "AUTH_TARGET": stack.socket("auth"),
        "QUOTA_TARGET": stack.socket("quota"),
        "INFERENCE_TARGET": stack.socket("inference"),
        "DATA_DIR": str(stack.settings.data_dir),
    }
    arguments = ("keys", "list", "--email", EMAIL, "--usage", "--json")
    done = await asyncio.to_thread(run_module, "services.cli", *arguments, environment=environment)
    assert done.returncode == 0, done.stderr
    (found,) = [one for one in json.loads(done.stdout)["keys"] if one["id"] == key.id]
    return dict(found)


async def test_an_operator_sees_todays_use_and_the_last_use_of_a_key(
    stack: Stack, key: Key, http: httpx.AsyncClient
) -> None:
    assert (await _listed(stack, key))["last_used_at"] is None
    for _ in range(3):
        assert (await http.post("/api/v1/chat", headers=key.headers, json=say("hi"))).status_code == 200
    await stack.until_settled(key)

    found = await _listed(stack, key)

    assert found["used_today"] == 3
    assert str(found["last_used_at"]).startswith(time.strftime("%Y-%m-%d", time.gmtime()))


async def test_the_ledger_contains_no_key_and_no_part_of_a_conversation(
    stack: Stack, key: Key, http: httpx.AsyncClient
) -> None:
    assert (await http.post("/api/v1/chat", headers=key.headers, json=say(CANARY))).status_code == 200
    await stack.until_settled(key)
    connection = sqlite3.connect(f"file:{stack.settings.data_dir}/inference.db?mode=ro", uri=True)
    texts = {str(value) for row in connection.execute("SELECT * FROM usage_ledger") for value in row}
    connection.close()

    assert key.id in texts
    assert not [text for text in texts if key.secret in text or CANARY in text]
    for text in sorted(one for one in texts if len(one) > 20)[:50]:
        answer = await http.get("/api/v1/key", headers={"authorization": f"Bearer {text}"})
        assert answer.status_code == 401, f"a column of the ledger works as a key: {text}"
