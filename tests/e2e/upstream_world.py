"""A stack in which single requests are watched from all sides: client, ledger, quota, Groq's journal, metrics.

What was seen is told in the words of the table "What Groq does" of docs/failure-modes.md.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.stack import Key, Stack, free_port, running_stack, say

FALLBACK = {"qwen/qwen3.8-27b": ["openai/gpt-oss-120b"]}
MODEL, MODEL_WITH_FALLBACK = "openai/gpt-oss-20b", "qwen/qwen3.8-27b"
_ENVIRONMENT = {
    "GROQ_API_KEYS": "gsk_first,gsk_other",
    "INFERENCE_MODEL_FALLBACKS": json.dumps(FALLBACK),
    # Short enough to wait for, and long enough for a machine that does much else.
    "REQUEST_TIMEOUT_SECONDS": "5",
    "INFERENCE_FIRST_BYTE_TIMEOUT_SECONDS": "2",
    "INFERENCE_IDLE_TIMEOUT_SECONDS": "2",
    "QUOTA_HOLD_SECONDS": "7",
    "QUOTA_SWEEP_SECONDS": "0.2",
    # No request waits for a key that cools down for longer than the first, and none cools down for longer than the
    # second: the next request is to find both keys as they were.
    "INFERENCE_SUPPLY_WAIT_SECONDS": "0.5",
    "INFERENCE_KEY_REST_SECONDS_MAX": "0.7",
}
_CALM_SECONDS_MAX = 10
_ROW_SECONDS_MAX = 10


class Layout(StrEnum):
    """How the services are spread over processes."""

    SERVICES = "services"
    WORKER = "worker"


@dataclass(frozen=True)
class Seen:
    """What came of one request, in the table's words."""

    client: str
    charged: str
    calls: int


class UpstreamWorld:
    """A running stack with two Groq keys."""

    def __init__(self, stack: Stack, metrics_port: int) -> None:
        self.stack = stack
        self._metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"

    async def ask(self, marker: str, *, stream: bool, model: str = MODEL) -> Seen:
        """Send one request with a key of its own, and return what came of it once its row is there."""
        key = await self.stack.create_key()
        text = f"{key.id} {marker.replace('ID', f'{key.id}-{stream}')}"
        async with httpx.AsyncClient(base_url=self.stack.base_url, trust_env=False, timeout=30) as client:
            body = say(text, stream=stream, model=model)
            response = await client.post("/api/v1/chat", headers=key.headers, json=body)
        row = await self._row(key)
        _check_error(response)
        counters = await self.stack.until_settled(key)
        assert counters == (row["charged"], 0), f"Redis has {counters}: {row}"
        asked = [one for one in await self.stack.journal() if str(one["last_user_message"]).startswith(key.id)]
        assert row["attempts"] == len(asked), f"{row}: {asked}"
        charged = f"yes, {row['usage_source']}" if row["charged"] else "no"
        return Seen(_told(response), charged, len(asked))

    async def results(self) -> Counter[str]:
        """Return how calls for chats have ended so far, by inference's own count."""
        calls: Counter[str] = Counter()
        for sample in await self._samples("stack_upstream_calls_total"):
            calls[sample.labels["result"]] += int(sample.value)
        async with httpx.AsyncClient(trust_env=False) as client:
            lists: dict[str, Any] = (await client.get(f"{self.stack.standin_url}/model-list")).json()
        calls["answered"] -= lists["requests"]
        return calls

    async def usable_keys(self) -> int:
        """Return how many Groq keys are not in quarantine."""
        return int(sum(sample.value for sample in await self._samples("stack_upstream_key_usable")))

    async def resting(self) -> int:
        """Return for how many keys and models a key cools down or has an open circuit."""
        return int(sum(sample.value for sample in await self._samples("stack_upstream_key_rests")))

    async def until_calm(self, model: str = MODEL) -> None:
        """Return once both keys are used again and nothing is held against them."""
        async with asyncio.timeout(_CALM_SECONDS_MAX):
            while await self.resting() or await self.usable_keys() < 2:
                await asyncio.sleep(0.05)
            # Calls take turns with the keys, so that each of both has a success; a key on trial may be passed over.
            while (await self._successes(model)) < 2:
                await asyncio.sleep(0.05)

    async def _successes(self, model: str) -> int:
        seen = [await self.ask("calm", stream=False, model=model) for _ in range(2)]
        return sum(one.client == "200" for one in seen)

    async def _row(self, key: Key) -> dict[str, Any]:
        async with asyncio.timeout(_ROW_SECONDS_MAX):
            while not (rows := await asyncio.to_thread(self.stack.ledger, key)):
                await asyncio.sleep(0.02)
        (row,) = rows
        return row

    async def _samples(self, name: str) -> list[Any]:
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(self._metrics_url)).text
        families = text_string_to_metric_families(text)
        return [sample for family in families for sample in family.samples if sample.name == name]


@contextmanager
def upstream_world(layout: Layout) -> Iterator[UpstreamWorld]:
    """Run a stack for the block."""
    port = free_port()
    metrics = "GATEWAY_METRICS_LISTEN" if layout is Layout.WORKER else "INFERENCE_METRICS_LISTEN"
    workers = 1 if layout is Layout.WORKER else 0
    with running_stack(workers=workers, **_ENVIRONMENT, **{metrics: f"127.0.0.1:{port}"}) as stack:
        yield UpstreamWorld(stack, port)


def _told(response: httpx.Response) -> str:
    """Return what a client was told, such as `503 upstream_unavailable` or `200, then upstream_cut`."""
    if response.status_code != 200:
        return f"{response.status_code} {response.json()['error']['code'] or ''}".rstrip()
    is_stream = response.headers["content-type"].startswith("text/event-stream")
    if not is_stream:
        assert response.json()["choices"]
        return "200" + _replacement(response.text)
    events = [text.removeprefix("data: ") for text in response.text.split("\n\n") if text.startswith("data: ")]
    if events[-1] == "[DONE]":
        assert not any("error" in json.loads(event) for event in events[:-1])
        return "200" + _replacement(response.text)
    error = json.loads(events[-1])["error"]
    return f"200, then {error['code']}"


def _replacement(text: str) -> str:
    return " with U+FFFD" if "\N{REPLACEMENT CHARACTER}" in text else ""


def _check_error(response: httpx.Response) -> None:
    """Whatever Groq says, an error has the envelope, says when to come back, and is silent about the operator."""
    for secret in ("org_", "groq.com", "gsk_", "cloudflare"):
        assert secret not in response.text
    if response.status_code in (502, 503):
        assert int(response.headers["retry-after"]) >= 1
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
