"""Whatever a body contains, it is parsed or refused, and quickly. `make test-mutations` tries more bodies."""

import gc
import json
import time

from services.common.errors import InvalidRequest, NotFound
from services.gateway.apis import responses
from services.gateway.apis.surface import Context
from services.gateway.clients.translate import chat_request
from tests.properties.mutated_bodies import mutated_bodies
from tests.properties.response_bodies import NAMES, SEEDS
from tests.unit.gateway.apis.responses.answers import chunk, completion, fold, streamed

_SECONDS_MAX = 0.1


def _answer(body: bytes) -> bool:
    """Parse a body and render an answer to it. Return whether the body was accepted."""
    try:
        request = responses.parse(body, Context())
    except (InvalidRequest, NotFound):
        return False
    chat_request(request.chat)
    request.renderer.begin("req_1", 0.0)
    if request.chat.stream:
        fold(streamed(request.renderer, [[chunk(content="a", finish="stop")]]))
    else:
        json.loads(request.renderer.completion(completion(content="a")))
    return True


def test_bodies_are_parsed_or_refused() -> None:
    accepted = 0
    for body in mutated_bodies(SEEDS, NAMES):
        gc.disable()  # A collection of everything that other tests left takes longer.
        began = time.process_time()
        try:
            accepted += _answer(body)
            assert time.process_time() - began < _SECONDS_MAX, body[:1_000]
        finally:
            gc.enable()
    assert accepted > 20
