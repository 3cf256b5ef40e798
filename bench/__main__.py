"""`make bench`: compare the product with other gateways, a bare pass-through and nginx, in interleaved rounds."""

import argparse
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from bench import charts, report, rounds
from bench.contenders import Contender
from bench.contenders.litellm import LiteLLM
from bench.contenders.nginx import Nginx
from bench.contenders.passthrough import PassThrough
from bench.contenders.portkey import Portkey
from bench.contenders.smg import SMG
from bench.contenders.stack import ALL_LIMITS, Stack
from bench.machine import machine
from bench.mock import Mock
from bench.percentiles import medians
from bench.progress import say

_PLAN = rounds.Plan(
    rounds=3,
    warm_up_requests=200,
    seconds=5.0,
    seconds_alone=3.0,
    arrivals=((200, 5.0),),
    bursts=64,
    spaced=64,
    first_events=10,
    seconds_surface=2.0,
)
_SHORT = rounds.Plan(
    rounds=1,
    warm_up_requests=40,
    seconds=0.3,
    seconds_alone=0.3,
    arrivals=((200, 0.3),),
    bursts=16,
    spaced=16,
    first_events=2,
    seconds_surface=0.2,
)
_CHART = "comparison.png"


def main() -> None:
    """Run the benchmark and write the results into the page, the chart and the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="only show that everything runs; writes to var/bench")
    options = parser.parse_args()
    plan, out = (_SHORT, Path("var/bench")) if options.short else (_PLAN, Path("docs/benchmarks"))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name:
        run, found = _measure(_contenders(Path(name)), plan)
    _write(out, run, plan, found)


def _measure(contenders: Sequence[Contender], plan: rounds.Plan) -> tuple[report.Run, rounds.Rounds]:
    here = machine()
    with rounds.running(contenders) as (started, skipped):
        found, failed = rounds.run(started, plan)
        run = report.Run(
            date=datetime.now(UTC).isoformat(timespec="minutes"),
            machine=here,
            contenders=report.described(contender for contender in started if contender.name in found),
            skipped=skipped | failed,
            medians={name: medians(figures) for name, figures in found.items()},
            rounds=plan.rounds,
            charged=sum(contender.charged() or 0 for contender in started),
        )
    return run, found


def _contenders(folder: Path) -> list[Contender]:
    mock = Mock(folder)
    groq = mock.base_url
    return [
        mock,
        Nginx(folder, upstream=groq),
        PassThrough(folder, upstream=mock.url),
        PassThrough(folder, upstream=mock.url, workers=2),
        *(Stack(folder, groq_base_url=groq, workers=workers, limits=ALL_LIMITS) for workers in (1, 2, 0)),
        SMG(folder, groq_base_url=groq),
        Portkey(folder, groq_base_url=groq),
        Portkey(folder, groq_base_url=groq, workers=2),
        LiteLLM(folder, groq_base_url=groq),
        LiteLLM(folder, groq_base_url=groq, workers=2),
        LiteLLM(folder, groq_base_url=groq, has_limits=True),
        LiteLLM(folder, groq_base_url=groq, has_limits=True, workers=2),
    ]


def _write(out: Path, run: report.Run, plan: rounds.Plan, found: Mapping[str, object]) -> None:
    raw = out / (re.sub(r"[^a-z0-9]+", "-", run.machine.kind.lower()).strip("-") + ".json")
    # The medians are left out, because they follow from the rounds.
    about = {name: value for name, value in asdict(run).items() if name not in ("medians", "rounds")}
    raw.write_text(json.dumps({**about, "plan": asdict(plan), "rounds": found}, indent=1) + "\n", encoding="utf-8")
    charts.draw(run.medians, out / _CHART)
    report.write(run, out / "README.md", chart=_CHART)
    say(f"wrote {out / 'README.md'}, {_CHART} and {raw.name}")
    print(report.markdown(run, chart=_CHART))


if __name__ == "__main__":
    main()
