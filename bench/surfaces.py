"""`make bench-surfaces`: CPU time per stream event of `/responses` and `/messages`, compared with chat completions.

One stack serves all surfaces in front of the mock. Turns alternate between chat and the other surface, so that noise
affects both, and each pair of turns gives one ratio. Exits with 1 if a surface costs more than 1.5 times as much.
"""

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass

from bench import wire
from bench.ab import Comparison
from bench.closed_loop import NotAnswered, body
from bench.contenders.stack import Stack, stack_alone
from bench.layouts import LAYOUTS, add_layout_option
from bench.measure import Meter
from bench.mock import EVENTS_PER_STREAM
from bench.streams import Shape

_STREAMS = 48
_AT_ONCE = 16
_RATIO_MAX = 1.5


@dataclass(frozen=True, slots=True)
class Surface:
    """How a surface asks for the benchmark's stream, and how a complete one looks."""

    path: str
    delta: bytes
    """Text in each event with content."""
    end: bytes
    """Text in the event that ends a complete stream."""

    def request(self, stack: Stack, shape: Shape) -> bytes:
        """Return the encoded request of the same conversation on this surface."""
        chat = json.loads(body(stack, shape, stream=True))
        system, user = (message["content"] for message in chat["messages"])
        members = {
            "chat/completions": chat,
            "responses": {"instructions": system, "input": user, "max_output_tokens": 256},
            "messages": {"system": system, "messages": [{"role": "user", "content": user}], "max_tokens": 256},
        }[self.path]
        payload = json.dumps({"model": stack.model, "temperature": 0.7, "stream": True} | members).encode()
        return wire.request(stack, payload, path=f"/api/v1/{self.path}")

    def check(self, reply: wire.Reply) -> None:
        """Check that a stream is complete.

        Raises:
            NotAnswered: It is not.
        """
        contents = reply.body.count(self.delta)
        if reply.status != 200 or contents < 1 or self.end not in reply.body:
            raise NotAnswered(f"{self.path}: {reply.status}, {contents} deltas: {reply.body[-300:]!r}")


CHAT = Surface("chat/completions", b'"content":', b"data: [DONE]")
OTHERS = (
    Surface("responses", b"response.output_text.delta", b"event: response.completed"),
    Surface("messages", b"text_delta", b"event: message_stop"),
)


def main() -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=12, help="pairs of turns per surface, shape and layout")
    add_layout_option(parser)
    options = parser.parse_args()
    pairs: int = options.pairs
    is_slow = False
    for layout in options.layout:
        with stack_alone(workers=LAYOUTS[layout]) as (stack, _):
            for surface in (CHAT, *OTHERS):
                _cpu_ms(stack, surface, "bursts")
            for shape in ("bursts", "spaced"):
                for surface in OTHERS:
                    found = Comparison(tuple(_ratio(stack, surface, shape, pair) for pair in range(pairs)))
                    print(f"{layout}, {shape}, /{surface.path} vs chat, CPU per event: {found}", flush=True)
                    is_slow |= found.ratio > _RATIO_MAX
    sys.exit(int(is_slow))


def _ratio(stack: Stack, surface: Surface, shape: Shape, pair: int) -> float:
    """Return the ratio of one pair of turns. Their order alternates."""
    turns = (CHAT, surface) if pair % 2 == 0 else (surface, CHAT)
    cost = {turn.path: _cpu_ms(stack, turn, shape) for turn in turns}
    return cost[surface.path] / cost[CHAT.path]


def _cpu_ms(stack: Stack, surface: Surface, shape: Shape) -> float:
    """Return the CPU time of all processes per event of the mock."""
    meter = Meter(stack)
    for reply in asyncio.run(_read(stack, surface.request(stack, shape))):
        surface.check(reply)
    return meter.cpu_ms(answers=_STREAMS, units=_STREAMS * EVENTS_PER_STREAM)[""]


async def _read(stack: Stack, request: bytes) -> list[wire.Reply]:
    async def client() -> list[wire.Reply]:
        connection = await wire.connect(stack)
        replies = [await connection.ask(request) for _ in range(_STREAMS // _AT_ONCE)]
        connection.close()
        return replies

    return [reply for replies in await asyncio.gather(*(client() for _ in range(_AT_ONCE))) for reply in replies]


if __name__ == "__main__":
    main()
