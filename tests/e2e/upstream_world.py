"""A stack in which single requests are observed everywhere: client, ledger, quota, Groq's journal, metrics and log.

Observations use the words of "What Groq does" in docs/failure-modes.md.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.stack import Key, Stack, say, stack_folder, started
from tests.ports import free_port

MODEL_WITH_FALLBACK = "qwen/qwen3.8-27b"
MODELS = (
    "openai/gpt-oss-20b",
    "openai/gpt-oss-120b",
    "openai/gpt-oss-safeguard-20b",
    "groq/compound",
    "groq/compound-mini",
    "allam-2-7b",
    "meta-llama/llama-prompt-guard-2-86m",
    "meta-llama/llama-prompt-guard-2-22m",
)
"""Models without a fallback, so that they do not affect each other."""
BREAKER_FAILURES = 16
REST_SECONDS = 0.6
"""Longest cool-down of a key."""
_ENVIRONMENT = {
    "GROQ_API_KEYS": "gsk_first,gsk_other",
    "INFERENCE_MODEL_FALLBACKS": json.dumps({MODEL_WITH_FALLBACK: ["openai/gpt-oss-120b"]}),
    # More than all rows of the table that run at once need.
    "INFERENCE_BREAKER_FAILURES": str(BREAKER_FAILURES),
    # Short enough to wait for, and long enough for a busy machine.
    "REQUEST_TIMEOUT_SECONDS": "5",
    "INFERENCE_FIRST_BYTE_TIMEOUT_SECONDS": "2",
    "INFERENCE_IDLE_TIMEOUT_SECONDS": "2",
    "QUOTA_HOLD_SECONDS": "7",
    "QUOTA_SWEEP_SECONDS": "0.2",
    # No request waits longer than the first for a key that cools down, and no key cools down for longer than the
    # second: the next request must find both keys unchanged.
    "INFERENCE_QUEUE_SECONDS": "0.4",
    # The 429s of markers report limits that the stand-in does not have.
    "INFERENCE_UPSTREAM_LIMITS": '{"*": {"tokens_per_minute": 1000000000, "tokens_per_day": 1000000000}}',
    "INFERENCE_KEY_COOLDOWN_SECONDS_MAX": str(REST_SECONDS),
}
_CALM_SECONDS_MAX = 30
_ROW_SECONDS_MAX = 15


class Layout(StrEnum):
    """How the services are spread over processes."""

    SERVICES = "services"
    WORKER = "worker"


@dataclass(frozen=True)
class Seen:
    """The result of one request."""

    client: str
    """Status and code."""
    charged: str
    """Whether it counts, and where its tokens come from."""
    calls: int
    """Number of calls to Groq in its row."""
    key: Key


class UpstreamWorld:
    """A running stack with two Groq keys."""

    def __init__(self, stack: Stack, layout: Layout, metrics_port: int) -> None:
        self.stack = stack
        self._inference = "inference" if layout is Layout.SERVICES else "stack"
        self._metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"

    async def ask(self, markers: str, *, stream: bool, model: str = MODELS[0]) -> Seen:
        """Send one request with its own key, and return the result once its row is written."""
        key = await self.stack.create_key()
        response = await self.send(key, markers, stream=stream, model=model)
        _check_error(response)
        row = await self._row(key)
        counters = await self.stack.until_settled(key)
        assert counters == (row["charged"], 0), f"Redis has {counters}: {row}"
        charged = f"yes, {row['usage_source']}" if row["charged"] else "no"
        return Seen(_client_view(response), charged, row["attempts"], key)

    async def send(self, key: Key, markers: str, *, stream: bool, model: str) -> httpx.Response:
        """Send one request and return its answer; `ID` in its markers becomes a unique id."""
        text = f"{key.id} {markers.replace('ID', f'{key.id}-{stream}')}"
        async with httpx.AsyncClient(base_url=self.stack.base_url, trust_env=False, timeout=30) as client:
            body = say(text, stream=stream, model=model)
            return await client.post("/api/v1/chat", headers=key.headers, json=body)

    async def calls(self) -> Counter[str]:
        """Return how many calls Groq got with each API key's requests, by the key's id."""
        return Counter(str(one["last_user_message"]).split(" ")[0] for one in await self.stack.journal())

    async def results(self) -> Counter[str]:
        """Return the results of calls so far, by inference's own count; `lists` is how many requested the models."""
        calls: Counter[str] = Counter()
        for sample in await self._samples("stack_upstream_calls_total"):
            calls[sample.labels["result"]] += int(sample.value)
        async with httpx.AsyncClient(trust_env=False) as client:
            lists: dict[str, Any] = (await client.get(f"{self.stack.standin_url}/model-list")).json()
        return calls + Counter(lists=lists["requests"])

    async def usable_keys(self) -> int:
        """Return how many Groq keys are not in quarantine."""
        return int(sum(sample.value for sample in await self._samples("stack_upstream_key_usable")))

    async def until_unaffected(self, model: str) -> None:
        """Return once both keys are used again for a model and have no recorded failures; nothing else may call."""
        key = await self.stack.create_key()
        deadline = time.monotonic() + _CALM_SECONDS_MAX
        while True:
            cooling, usable = await self._resting(), await self.usable_keys()
            if not cooling and usable == 2:
                break
            assert time.monotonic() < deadline, f"{cooling} cool-downs, {usable} usable keys"
            # Only a successful call closes a circuit, which failures of a busy machine may have opened.
            for one in (model, *MODELS):
                await self.send(key, "calm", stream=False, model=one)
        async with asyncio.timeout(_CALM_SECONDS_MAX):
            # Calls alternate between the keys, so that both have a success.
            for _ in range(2):
                assert (await self.send(key, "calm", stream=False, model=model)).status_code == 200

    def logged(self, message: str, **members: object) -> int:
        """Return how often inference has logged a message with these members."""
        lines = (json.loads(line) for line in self.stack.log(self._inference).splitlines() if line.startswith("{"))
        return sum(line["message"] == message and members.items() <= line.items() for line in lines)

    async def restart_inference(self) -> None:
        """Kill inference and restart it."""
        self.stack.kill(self._inference)
        await self.stack.repair()

    async def change_model_list(self, kind: str) -> None:
        """Make the stand-in answer this for its model list."""
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.put(f"{self.stack.standin_url}/model-list", params={"answer": kind})
            answer.raise_for_status()

    async def listed_models(self, key: Key) -> set[str]:
        """Return the models shown to a client."""
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{self.stack.base_url}/api/v1/models", headers=key.headers)
        return {str(model["id"]) for model in answer.json()["data"]}

    async def _resting(self) -> int:
        return int(sum(sample.value for sample in await self._samples("stack_upstream_key_cooldowns")))

    async def _row(self, key: Key) -> dict[str, Any]:
        async with asyncio.timeout(_ROW_SECONDS_MAX):
            while not (rows := await asyncio.to_thread(self.stack.ledger, key)):
                await asyncio.sleep(0.05)
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
    environment = {**_ENVIRONMENT, metrics: f"127.0.0.1:{port}"}
    with stack_folder() as folder:
        stack = Stack(folder, gateways=1, workers=workers, environment=environment)
        with started(stack):
            yield UpstreamWorld(stack, layout, port)


def _client_view(response: httpx.Response) -> str:
    """Return the client's view, such as `503 upstream_unavailable` or `200, then upstream_cut`."""
    if response.status_code != 200:
        error = response.json()["error"]
        more = " with failed_generation" if error.get("failed_generation") else ""
        return f"{response.status_code} {error['code'] or ''}".rstrip() + more
    answer = "200 with U+FFFD" if "\N{REPLACEMENT CHARACTER}" in response.text else "200"
    if not response.headers["content-type"].startswith("text/event-stream"):
        assert response.json()["choices"]
        return answer
    events = [text.removeprefix("data: ") for text in response.text.split("\n\n") if text.startswith("data: ")]
    errors = [json.loads(event).get("error") for event in events if event != "[DONE]"]
    if events[-1] == "[DONE]":
        assert not any(errors)
        return answer
    assert not any(errors[:-1])
    return f"200, then {errors[-1]['code']}"


def _check_error(response: httpx.Response) -> None:
    """Check an error: it has the envelope and Retry-After, and exposes nothing of the operator."""
    for secret in ("org_", "groq.com", "gsk_", "cloudflare"):
        assert secret not in response.text
    if response.status_code in (502, 503):
        assert int(response.headers["retry-after"]) >= 1
    if response.status_code != 200:
        assert set(response.json()["error"]) - {"failed_generation"} == {"message", "type", "param", "code"}
