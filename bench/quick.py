"""`make bench-quick`: the product beside the bare pass-through, in under 90 seconds, and the guard against regressions.

CPU per request as a ratio to the bare pass-through in the same minute says the same on a fast and on a slow machine,
and little of it is other programs' doing. Ends with 1 when it is more than 25 % worse than the best that is committed.
"""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import history, measure
from bench.contenders import Contender
from bench.contenders.passthrough import PassThrough
from bench.contenders.stack import Stack
from bench.measure import Figures
from bench.mock import Mock
from bench.percentiles import medians
from bench.progress import say

_ROUNDS = 3
_SECONDS = 3.0
_SECONDS_ALONE = 1.5


def main() -> None:
    """Measure, print, append to the history, and hold the result to the guard."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name, ExitStack() as running:
        contenders = _start(Path(name), running)
        rounds = _measure(contenders)
    figures = {name: medians(rows) for name, rows in rounds.items()}
    _print(figures)
    entry = history.entry(figures)
    verdict = history.judge(entry, history.committed())
    history.append(entry)
    print(verdict.sentence)
    sys.exit(0 if verdict.is_good else 1)


def _start(folder: Path, running: ExitStack) -> list[Contender]:
    mock = Mock(folder)
    contenders: list[Contender] = [
        mock,
        PassThrough(folder, upstream=mock.url),
        Stack(folder, groq_base_url=mock.base_url),
    ]
    for contender in contenders:
        contender.start()
        running.callback(contender.stop)
        say(f"{contender.name} runs: {contender.version}")
    return contenders


def _measure(contenders: list[Contender]) -> dict[str, list[Figures]]:
    """Measure all in turn, round after round, so that a noisy moment hits one run of each at most."""
    idle = {contender.name: measure.memory_mb(contender) for contender in contenders}
    rates = {contender.name: measure.warm_up(contender, requests=500) for contender in contenders}
    rounds: dict[str, list[Figures]] = {contender.name: [] for contender in contenders}
    for number in range(1, _ROUNDS + 1):
        for contender in contenders:
            figures = _one(contender, rates[contender.name]) | {"rss_mb@idle": idle[contender.name]}
            rounds[contender.name].append(figures)
            rates[contender.name] = figures["requests_per_second@32"]
            say(f"round {number}, {contender.name}: {figures['requests_per_second@32']:,.0f} requests/s")
    return rounds


def _one(contender: Contender, rate: float) -> Figures:
    return {
        **measure.requests(contender, connections=32, seconds=_SECONDS, rate=rate),
        **measure.requests(contender, connections=1, seconds=_SECONDS_ALONE, rate=rate / 3),
        **measure.many_streams(contender, "bursts", count=64, at_once=16),
        **measure.first_event(contender, count=4),
        "rss_mb@load": measure.memory_mb(contender),
    }


def _print(figures: dict[str, Figures]) -> None:
    names = list(figures)
    print("| median of three | " + " | ".join(names) + " |")
    print("|---|" + "---:|" * len(names))
    for figure in figures[names[0]]:
        print(f"| {figure} | " + " | ".join(f"{figures[name][figure]:,.3f}" for name in names) + " |")


if __name__ == "__main__":
    main()
