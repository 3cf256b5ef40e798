"""`make bench-surfaces`: CPU time per stream event of the other surfaces, compared with chat completions.

One stack serves all surfaces in front of the mock. Turns alternate between chat and the other surface, so that noise
affects both, and each pair of turns gives one ratio. Exits with 1 if a surface costs more than 1.5 times as much.
"""

import argparse
import sys

from bench import streams
from bench.ab import Comparison
from bench.contenders.stack import Stack, stack_alone
from bench.layouts import LAYOUTS, add_layout_option
from bench.measure import Meter
from bench.surfaces import CHAT, OTHERS, Surface

_STREAMS = 48
_AT_ONCE = 16
_RATIO_MAX = 1.5
_SHAPES: tuple[streams.Shape, ...] = ("bursts", "spaced")


def main() -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=12, help="pairs of turns per surface, shape and layout")
    add_layout_option(parser)
    options = parser.parse_args()
    is_slow = False
    for layout in options.layout:
        with stack_alone(workers=LAYOUTS[layout]) as (stack, _):
            for surface in (CHAT, *OTHERS):
                _cpu_ms(stack, surface, "bursts")
            for shape in _SHAPES:
                for surface in OTHERS:
                    found = Comparison(tuple(_ratio(stack, surface, shape, pair) for pair in range(options.pairs)))
                    print(f"{layout}, {shape}, /{surface.path} vs chat, CPU per event: {found}", flush=True)
                    is_slow |= found.ratio > _RATIO_MAX
    sys.exit(int(is_slow))


def _ratio(stack: Stack, surface: Surface, shape: streams.Shape, pair: int) -> float:
    """Return the ratio of one pair of turns. Their order alternates."""
    turns = (CHAT, surface) if pair % 2 == 0 else (surface, CHAT)
    cost = {turn.path: _cpu_ms(stack, turn, shape) for turn in turns}
    return cost[surface.path] / cost[CHAT.path]


def _cpu_ms(stack: Stack, surface: Surface, shape: streams.Shape) -> float:
    """Return the CPU time of all processes per event of the mock."""
    meter = Meter(stack)
    found = streams.read(stack, shape, streams=_STREAMS, at_once=_AT_ONCE, surface=surface)
    return meter.cpu_ms(answers=_STREAMS, units=found.events)[""]


if __name__ == "__main__":
    main()
