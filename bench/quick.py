"""`make bench-quick`: the product beside the bare pass-through, in under 90 seconds, and the guard against regressions.

CPU per request as a ratio to the bare pass-through in the same minute says the same on a fast and on a slow machine,
and little of it is other programs' doing. Ends with 1 when it is more than 25 % worse than the best that is committed.
"""

import sys
import tempfile
from pathlib import Path

from bench import history, rounds, tables
from bench.contenders import Contender
from bench.contenders.passthrough import PassThrough
from bench.contenders.stack import Stack
from bench.machine import machine
from bench.mock import Mock
from bench.percentiles import medians

_PLAN = rounds.Plan(rounds=3, warm_up_requests=500, seconds=3.0, seconds_alone=1.5)


def main() -> None:
    """Measure, print, append to the history, and hold the result to the guard."""
    here = machine()
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name:
        folder = Path(name)
        mock = Mock(folder)
        contenders: list[Contender] = [
            mock,
            PassThrough(folder, upstream=mock.url),
            Stack(folder, groq_base_url=mock.base_url),
        ]
        with rounds.running(contenders) as (started, _):
            figures = {name: medians(found) for name, found in rounds.run(started, _PLAN).items()}
    print("\n".join(tables.everything(figures)))
    entry = history.entry(figures, on=here)
    verdict = history.judge(entry, history.committed())
    history.append(entry)
    print(verdict.sentence)
    sys.exit(0 if verdict.is_good else 1)


if __name__ == "__main__":
    main()
