"""The upper bound of what a chat takes of limits of tokens and cost."""

import asyncio
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from services.common.prices import ModelPrice, Prices
from services.common.surface import Surface
from services.gateway.apis import tokenizers
from services.gateway.apis.estimates import Estimator
from services.gateway.apis.surface import ModelFacts
from services.gateway.requests.types import Chat

_PRICES = Prices(
    {
        "cheap": ModelPrice(input=100_000, cached_input=50_000, output=400_000),
        "dear": ModelPrice(input=2_000_000, cached_input=2_000_000, output=6_000_000, image=10_000_000_000),
    }
)
_USER = {"role": "user", "content": "hello"}


def _estimator(facts: Mapping[str, ModelFacts] | None = None) -> Estimator:
    models: Any = SimpleNamespace(facts=facts or {})
    return Estimator(models, _PRICES, default_output_tokens=4_096)


def _chat(**members: Any) -> Chat:
    return Chat({"messages": [_USER], **members}, False, surface=Surface.CHAT)


async def test_a_prompt_has_at_most_its_bytes_and_what_the_template_adds() -> None:
    short = await _estimator().estimate(_chat(model="cheap"))
    long = await _estimator().estimate(_chat(model="cheap", messages=[{**_USER, "content": "hello" + "é" * 500}]))

    assert 300 < short.prompt_tokens < 500
    assert long.prompt_tokens - short.prompt_tokens == 1_000


@pytest.mark.parametrize("name", ["tools", "functions", "response_format", "anything"])
async def test_everything_that_is_passed_on_counts(name: str) -> None:
    without = await _estimator().estimate(_chat(model="cheap"))
    value = [{"description": "x" * 10_000}]

    with_member = await _estimator().estimate(_chat(model="cheap", **{name: value}))

    assert with_member.prompt_tokens - without.prompt_tokens >= 10_000


async def test_the_data_of_an_image_is_not_text_and_what_is_beside_it_is() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000, "detail": "low"}}
    message = {"role": "user", "content": [image, {**image, "text": "x" * 5_000}]}

    estimate = await _estimator().estimate(_chat(model="dear", messages=[message]))

    assert 2 * 3_000 + 5_000 < estimate.prompt_tokens < 2 * 3_000 + 6_000
    assert estimate.prompt_cost == estimate.prompt_tokens * 2 + 2 * 10_000


@pytest.mark.parametrize(
    ("members", "output"),
    [
        ({}, 4_096),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 9}, 9),
        ({"max_completion_tokens": 7, "n": 3}, 21),
        ({"max_completion_tokens": 2**63}, 1_000_000),
        ({"max_completion_tokens": 1, "n": 2**63}, 128),
    ],
)
async def test_the_output_is_what_the_client_requests_or_the_default(members: dict[str, Any], output: int) -> None:
    assert (await _estimator().estimate(_chat(model="cheap", **members))).output_tokens == output


async def test_the_default_output_is_at_most_the_models_maximum() -> None:
    facts = {"cheap": ModelFacts(max_output_tokens=1_024)}

    assert (await _estimator(facts).estimate(_chat(model="cheap"))).output_tokens == 1_024


@pytest.mark.parametrize("members", [{}, {"model": "unknown"}])
async def test_a_model_without_a_price_is_held_at_the_highest(members: dict[str, Any]) -> None:
    estimate = await _estimator().estimate(_chat(**members))

    assert estimate.prompt_cost == estimate.prompt_tokens * 2
    assert estimate.output_cost_per_million == 6_000_000


async def test_an_alias_has_the_price_of_its_model() -> None:
    estimate = await _estimator({"fast": ModelFacts(id="cheap")}).estimate(_chat(model="fast"))

    assert estimate.output_cost_per_million == 400_000


async def test_counting_a_long_prompt_blocks_no_other_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, letters without blanks blocked the gateway for half a second per request, which cost nothing."""

    class Slow:
        def count(self, text: str) -> int:
            time.sleep(0.2)
            return 7

    monkeypatch.setattr(tokenizers, "_loaded", {"openai/gpt-oss": Slow()})
    chats = [_chat(model="openai/gpt-oss-20b", messages=[{**_USER, "content": "x" * 50_000}]) for _ in range(4)]
    estimator, longest = _estimator(), 0.0

    counting = asyncio.gather(*(estimator.estimate(chat) for chat in chats))
    while not counting.done():
        began = time.monotonic()
        await asyncio.sleep(0.001)
        longest = max(longest, time.monotonic() - began)

    found = sorted(estimate.prompt_tokens for estimate in await counting)
    assert longest < 0.15
    assert found[0] < 1_000
    assert found[-1] > 50_000, "without a free thread, bytes are the bound"
