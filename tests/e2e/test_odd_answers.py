"""No answer of Groq, however wrong, makes a model unavailable to the requests after it."""

from collections.abc import Iterator
from contextlib import suppress

import aiohttp
import pytest

from tests.e2e.stack import Key, Stack, running_stack, say
from tests.faults.kinds import KINDS, Kind

_SLOW = ("hang", "stall", "endless")
_ALL = [kind for kind in KINDS if not kind.is_bad and kind.name not in _SLOW]
_HUGE = [kind for kind in _ALL if kind.name == "huge counts"]

pytestmark = pytest.mark.xdist_group("odd_answers")


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    """Yield a stack whose keys do not cool down after refusals, which the operator can choose."""
    with running_stack(
        INFERENCE_KEY_COOLDOWN_SECONDS_MAX="0",
        REQUEST_TIMEOUT_SECONDS="2",
        INFERENCE_FIRST_BYTE_TIMEOUT_SECONDS="0.6",
    ) as stack:
        yield stack


@pytest.mark.parametrize("kinds", [_HUGE, pytest.param(_ALL, marks=pytest.mark.long)], ids=["huge counts", "all"])
async def test_a_request_after_an_odd_answer_is_answered(running: Stack, kinds: list[Kind]) -> None:
    key = await running.create_key(daily_limit=100_000)
    async with aiohttp.ClientSession() as session:
        for number, kind in enumerate(kinds):
            for stream in (False, True):
                await _ask(running, session, key, kind.marker.replace("ID", f"{number}{stream}"), stream=stream)
                status = await _ask(running, session, key, "plain [[standin:tokens count=5]]", stream=False)
                assert status == 200, f"after {kind.name}"


async def _ask(stack: Stack, session: aiohttp.ClientSession, key: Key, text: str, *, stream: bool) -> int:
    url = f"{stack.base_url}/api/v1/chat"
    async with session.post(url, headers=key.headers, json=say(text, stream=stream)) as response:
        with suppress(aiohttp.ClientPayloadError):  # Some answers are cut.
            await response.read()
        return response.status
