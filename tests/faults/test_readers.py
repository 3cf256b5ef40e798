"""The readers of answers, against the product's own renderers: what a client may take for a whole answer, and what not.

The fault suite's checks are only as good as these readers.
"""

import asyncio
import json
from collections.abc import Callable

import pytest

from services.gateway.apis import completions, messages, responses
from services.gateway.apis.chat_completions import surface as chat_completions
from services.gateway.apis.chat_completions.limits import DEFAULT_LIMITS
from services.gateway.apis.surface import Context
from services.gateway.http.errors import HTTPError
from services.gateway.requests.surface import Renderer, SurfaceRequest
from services.gateway.requests.types import Principal
from tests.faults.answers import Answer, EventLines, Tokens
from tests.faults.readers import READERS
from tests.faults.surfaces import Surface, body, surface_of

_REQUEST_ID = "req_1"
_TIMED_OUT = HTTPError(
    504, "The model did not answer in time. Try again in a moment.", "internal_error", code="upstream_timeout"
)
_USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
_MODEL = "openai/gpt-oss-20b"


def _chat(sent: bytes, context: Context) -> SurfaceRequest:
    principal = Principal("key_1", "acc_1", 10, None, models=())

    async def parse() -> SurfaceRequest:
        return await chat_completions.parser(DEFAULT_LIMITS)(sent, principal)

    return asyncio.run(parse())


_PARSERS: dict[Surface, Callable[[bytes, Context], SurfaceRequest]] = {
    Surface.CHAT: _chat,
    Surface.CHAT_COMPLETIONS: _chat,
    Surface.COMPLETIONS: completions.parse,
    Surface.MESSAGES: messages.parse,
    Surface.RESPONSES: responses.parse,
}


@pytest.fixture(params=list(Surface))
def surface(request: pytest.FixtureRequest) -> Surface:
    """Return each surface."""
    return Surface(request.param)


def _renderer(surface: Surface) -> Renderer:
    renderer = _PARSERS[surface](json.dumps(body(surface, "hi", stream=True)).encode(), Context()).renderer
    renderer.begin(_REQUEST_ID, 0.0)
    return renderer


def _chunk(finish_reason: str | None = None, **delta: str) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    usage = {"usage": _USAGE} if finish_reason else {}
    return json.dumps({"id": "c", "model": _MODEL, "choices": [choice], **usage}).encode()


def _read(surface: Surface, stream: bytes, *, ends: bool = True) -> Answer:
    """Read a stream, which ends in order or with a broken connection."""
    answer, lines = Answer(request_id=_REQUEST_ID, status=200), EventLines()
    reader = READERS[surface](answer)
    for event in filter(None, map(lines.add, stream.split(b"\n"))):
        reader.event(*event)
    if ends:
        reader.end()
    return answer


def _whole(surface: Surface) -> bytes:
    renderer = _renderer(surface)
    out = [renderer.events([one]) for one in (_chunk(content="a"), _chunk(content="b"), _chunk("stop"))]
    return b"".join([*out, renderer.end()])


def test_a_whole_stream_is_one(surface: Surface) -> None:
    answer = _read(surface, _whole(surface))
    assert answer.oddities == []
    assert (answer.is_done, answer.has_output, answer.has_finished, answer.error) == (True, True, True, None)
    assert answer.tokens == Tokens(5, 3, None if surface is Surface.MESSAGES else 8, 0, 0)


def test_a_stream_that_ends_before_its_last_event_is_odd_and_not_whole(surface: Surface) -> None:
    events = _whole(surface).split(b"\n\n")[:-1]
    last = -2 if surface is Surface.RESPONSES else -1  # `[DONE]` is only for clients that wait for it.
    for count in range(len(events[:last]) + 1):
        part = b"\n\n".join([*events[:count], b""])
        assert not _read(surface, part, ends=False).is_done
        assert _read(surface, part).oddities


def test_an_event_is_odd_if_it_comes_twice(surface: Surface) -> None:
    events = _whole(surface).split(b"\n\n")[:-1]
    assert _read(surface, b"\n\n".join([*events, events[-1], b""])).oddities


def test_a_failed_stream_is_not_whole_and_has_our_code(surface: Surface) -> None:
    renderer = _renderer(surface)
    answer = _read(surface, renderer.events([_chunk(content="a")]) + renderer.stream_error(_TIMED_OUT))
    assert answer.oddities == []
    assert answer.error
    assert (answer.is_done, answer.has_output, answer.code) == (False, True, "upstream_timeout")


def test_a_refusal_has_our_code(surface: Surface) -> None:
    refusal = _renderer(surface).error(_TIMED_OUT)
    answer = Answer(request_id=_REQUEST_ID, status=refusal.status)
    READERS[surface](answer).whole(json.loads(refusal.body))
    assert answer.oddities == []
    assert (answer.code, answer.is_done) == ("upstream_timeout", False)


def test_an_envelope_of_another_surface_is_odd(surface: Surface) -> None:
    other = Surface.MESSAGES if surface is not Surface.MESSAGES else Surface.CHAT
    answer = Answer(request_id=_REQUEST_ID, status=504)
    READERS[surface](answer).whole(json.loads(_renderer(other).error(_TIMED_OUT).body))
    assert answer.oddities


def test_each_five_requests_use_every_surface_in_an_order_of_the_seed() -> None:
    orders = [[surface_of(seed, number) for number in range(60)] for seed in range(4)]
    for order in orders:
        assert all(set(order[first : first + 5]) == set(Surface) for first in range(0, 60, 5))
    assert len(set(map(tuple, orders))) == 4
    assert orders[1] == [surface_of(1, number) for number in range(60)]
