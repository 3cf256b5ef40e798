"""The services work with every accepted setting: at their bounds, numbers serve every page and request."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from services.auth.settings import AuthSettings
from services.common.runtime.settings import ServiceSettings
from services.gateway.apis.tokenizers import FAMILIES, QUICKTOK
from services.gateway.settings import GatewaySettings
from services.inference.settings import InferenceSettings
from services.quota.settings import QuotaSettings
from tests.e2e.console.browser import Browser, secret_of
from tests.e2e.stack import Stack, running_stack, say

_KINDS = (ServiceSettings, AuthSettings, QuotaSettings, InferenceSettings, GatewaySettings)
_PAGES = ("/keys", "/usage", "/usage.csv", "/account", "/playground", "/readyz", "/api/v1/models", "/api/v1/key")
_SECONDS_MAX, _BYTES_MAX, _NUMBER_MAX = 315_360_000, 2**40, 2**31 - 1


def _at_their_bounds() -> dict[str, str]:
    """Return every number without a narrower bound, except those that a stop waits for."""
    found: dict[str, str] = {}
    for kind in _KINDS:
        prefix = kind.model_config.get("env_prefix", "")
        for field, known in kind.model_fields.items():
            is_bounded = any(hasattr(one, "le") for one in known.metadata)
            if known.annotation in (int, float) and not is_bounded:
                most = _SECONDS_MAX if "seconds" in field else _BYTES_MAX if "bytes" in field else _NUMBER_MAX
                found[str(known.validation_alias or f"{prefix}{field}".upper())] = str(most)
    for name in ("DRAIN_SECONDS", "GRACE_SECONDS", "GATEWAY_BODY_BYTES_MAX"):
        del found[name]
    return {**found, "REQUEST_TIMEOUT_SECONDS": str(_SECONDS_MAX - 1)}


@pytest.fixture
def stack_at_its_bounds() -> Iterator[Stack]:
    """Yield a stack of one process whose numbers are at their maximum."""
    environment: dict[str, Any] = _at_their_bounds()
    assert {"AUTH_SESSION_SECONDS", "AUTH_ACTIVE_KEYS_MAX", "QUOTA_CLOCK_OFFSET_SECONDS"} <= set(environment)
    with running_stack(workers=1, **environment, GATEWAY_TOKENIZERS=json.dumps(FAMILIES)) as running:
        yield running


@pytest.mark.long
async def test_settings_at_their_upper_bounds_serve_every_page_and_request(stack_at_its_bounds: Stack) -> None:
    async with Browser(stack_at_its_bounds) as browser:
        await browser.sign_up(f"{secrets.token_hex(6)}@example.com")
        secret = secret_of((await browser.submit("/keys", "/keys", {"name": "laptop"})).text)
        headers = {"authorization": f"Bearer {secret}"}
        for stream in (False, True):
            body = say("hi", stream=stream)
            assert (await browser.client.post("/api/v1/chat", headers=headers, json=body)).status_code == 200
        body = {"model": "openai/gpt-oss-20b", "messages": [{"role": "user", "content": "hello world " * 100}]}
        counted = await browser.client.post("/api/v1/messages/count_tokens", headers=headers, json=body)
        answers = {path: await browser.client.get(path, headers=headers) for path in _PAGES}
    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(_PAGES, 200)
    tokens = counted.json()["input_tokens"]
    assert tokens < 300 if QUICKTOK else tokens > 400, "without a tokenizer, a token is three bytes"
