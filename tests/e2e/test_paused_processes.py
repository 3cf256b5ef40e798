"""Processes that stand still for seconds, as when a container is paused, and then fail nothing that was in time."""

import asyncio
import signal
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.stack import Key, Stack, running_stack, say

_IDLE_SECONDS = 1
_PAUSE_SECONDS = _IDLE_SECONDS + 1.0
_SLOW = "[[standin:slow token_ms=40]] [[standin:tokens count=60]]"


@pytest.fixture(scope="module")
def pausable() -> Iterator[Stack]:
    """Yield a stack with a short time-out between events."""
    with running_stack(INFERENCE_IDLE_TIMEOUT_SECONDS=str(_IDLE_SECONDS)) as running:
        yield running


async def _stream(client: httpx.AsyncClient, stack: Stack, key: Key) -> str:
    body = say(_SLOW, stream=True)
    response = await client.post(f"{stack.base_url}/api/v1/chat", headers=key.headers, json=body)
    assert response.status_code == 200
    return response.text


@pytest.mark.long
@pytest.mark.parametrize("name", ["inference", "gateway-1"])
async def test_streams_of_a_paused_process_are_whole(pausable: Stack, name: str) -> None:
    key = await pausable.create_key()
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        streams = [asyncio.ensure_future(_stream(client, pausable, key)) for _ in range(6)]
        await asyncio.sleep(0.8)
        pausable.signal(name, signal.SIGSTOP)
        await asyncio.sleep(_PAUSE_SECONDS)
        pausable.signal(name, signal.SIGCONT)
        texts = await asyncio.gather(*streams)

    assert not [text[text.find('"error"') :] for text in texts if '"error"' in text]
    assert all(text.endswith("data: [DONE]\n\n") for text in texts)
