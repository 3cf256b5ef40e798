"""`make bench-ab BASE=HEAD~1`: compare two source trees by CPU time per request and per stream event.

Both trees run at the same time in front of one mock of Groq. Load alternates between them every one or two seconds, so
that noise affects both. Each pair of turns gives one ratio. The report has the median ratio and its confidence
interval, for one process (all services in a worker) and for four, or for the layouts of `--layout`.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import measure, rounds
from bench.contenders.stack import ALL_LIMITS, Stack
from bench.layouts import LAYOUTS, add_layout_option
from bench.measure import Figures
from bench.mock import Mock
from bench.progress import say

_ROOT = Path(__file__).parents[1]
_WARM_UP_REQUESTS = 500
_TURN_SECONDS = 1.5
_STREAMS = 192
_STREAMS_AT_ONCE = 16
_RESAMPLES = 2_000
_SLOWER_MAX = 1.05
"""Ratio above which a regression is reported, if the whole confidence interval is above 1."""

Load = Callable[[Stack, float], Figures]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ratios of paired turns: the CPU time of the working tree divided by that of the base."""

    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median ratio."""
        return median(self.ratios)

    def spread(self) -> tuple[float, float]:
        """Return the 95 % confidence interval of the median, by bootstrap."""
        generator = random.Random(0)
        medians = sorted(median(generator.choices(self.ratios, k=len(self.ratios))) for _ in range(_RESAMPLES))
        return medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES)]

    @property
    def is_regression(self) -> bool:
        """Whether the working tree uses significantly more CPU time than the base."""
        return self.ratio > _SLOWER_MAX and self.spread()[0] > 1

    def __str__(self) -> str:
        low, high = self.spread()
        return f"{self.ratio:.3f} (95 %: {low:.3f} to {high:.3f}, {len(self.ratios)} pairs)"


def main() -> None:
    """Compare the working tree with a commit. Exit with 1 if the working tree uses more CPU time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="HEAD~1", help="commit to compare with")
    parser.add_argument("--pairs", type=int, default=12, help="pairs of turns per load and layout")
    parser.add_argument("--limits", action="store_true", help="compare a key with all limits to one without instead")
    add_layout_option(parser)
    options = parser.parse_args()
    found: list[Comparison] = []
    tree = nullcontext(_ROOT) if options.limits else checked_out(options.base)
    with tempfile.TemporaryDirectory(prefix="bench-ab-", dir="/tmp") as name, tree as base:
        for layout in options.layout:
            workers = LAYOUTS[layout]
            folder, limits = Path(name) / str(workers), ALL_LIMITS if options.limits else ()
            for load, comparison in _compare(folder, base, workers=workers, pairs=options.pairs, limits=limits):
                print(f"{layout}, CPU per {load}: {comparison}", flush=True)
                found.append(comparison)
    sys.exit(1 if any(comparison.is_regression for comparison in found) else 0)


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Check a commit out into a temporary worktree for the block."""
    with tempfile.TemporaryDirectory(prefix="bench-base-", dir="/tmp") as name:
        tree = Path(name) / "tree"
        _git("worktree", "add", "--quiet", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> None:
    subprocess.run(("git", *arguments), cwd=_ROOT, check=True)


def _compare(
    folder: Path, base: Path, *, workers: int, pairs: int, limits: Sequence[str]
) -> Iterator[tuple[str, Comparison]]:
    """Yield the comparison of each load."""
    for name in ("mock", "a", "b"):
        (folder / name).mkdir(parents=True)
    mock = Mock(folder / "mock")
    old = Stack(folder / "a", groq_base_url=mock.base_url, workers=workers, tree=base)
    new = Stack(folder / "b", groq_base_url=mock.base_url, workers=workers, limits=limits)
    with rounds.running([mock, old, new]) as (started, skipped):
        if skipped:
            raise SystemExit("; ".join(f"{name}: {reason}" for name, reason in skipped.items()))
        assert len(started) == 3
        rate = min(measure.warm_up(stack, requests=_WARM_UP_REQUESTS) for stack in (old, new))
        for name, (load, figure) in _LOADS.items():
            ratios = [_ratio(old, new, load, figure, rate=rate, is_even=pair % 2 == 0) for pair in range(pairs)]
            say(f"{name}: {len(ratios)} pairs")
            yield name, Comparison(tuple(ratios))


def _ratio(old: Stack, new: Stack, load: Load, figure: str, *, rate: float, is_even: bool) -> float:
    """Return the ratio of one pair. The order of the two stacks alternates between pairs."""
    stacks = (old, new) if is_even else (new, old)
    figures = {id(stack): load(stack, rate)[figure] for stack in stacks}
    return figures[id(new)] / figures[id(old)]


def _requests(stack: Stack, rate: float) -> Figures:
    return measure.requests(stack, connections=32, seconds=_TURN_SECONDS, rate=rate)


def _streams(stack: Stack, rate: float) -> Figures:
    return measure.many_streams(stack, "bursts", count=_STREAMS, at_once=_STREAMS_AT_ONCE)


_LOADS: dict[str, tuple[Load, str]] = {
    "request": (_requests, "cpu_ms_per_request@32"),
    "stream event": (_streams, "cpu_ms_per_event@bursts"),
}


if __name__ == "__main__":
    main()
