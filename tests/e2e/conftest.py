"""The stack that most end-to-end tests share."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.e2e.stack import Key, Stack, running_stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Yield a running stack with two gateways; tests that damage a stack start their own."""
    # The failures that one test requests of Groq must not cool down the key that all tests share; all users of the
    # tests sign up from one address; and some tests send only requests that are refused.
    with running_stack(
        gateways=2,
        INFERENCE_KEY_COOLDOWN_SECONDS_MAX="0",
        AUTH_SIGN_UPS_PER_ADDRESS_MAX="100000",
        GATEWAY_INVALID_REQUESTS_PER_SECOND="0",
        AUTH_LOG_INS_PER_ADDRESS_MAX="100000",
    ) as running:
        yield running


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """Yield a running stack that the test may damage."""
    with running_stack() as running:
        yield running


@pytest.fixture
async def key(stack: Stack) -> Key:
    """Return a new key with the plan's limit."""
    return await stack.create_key()


@pytest.fixture
async def http(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client of the first gateway."""
    async with httpx.AsyncClient(base_url=stack.base_url, trust_env=False, timeout=20) as client:
        yield client
