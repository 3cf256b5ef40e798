"""`make bench`: compare the product with LiteLLM, Portkey, a bare pass-through and nginx, in interleaved rounds."""

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from bench import charts, report, rounds
from bench.contenders import Contender
from bench.contenders.litellm import LiteLLM
from bench.contenders.nginx import Nginx
from bench.contenders.passthrough import PassThrough
from bench.contenders.portkey import Portkey
from bench.contenders.stack import Stack
from bench.machine import machine
from bench.mock import Mock
from bench.percentiles import medians
from bench.progress import say

_PLAN = rounds.Plan(
    rounds=3,
    warm_up_requests=200,
    seconds=5.0,
    seconds_alone=4.0,
    arrivals=((10, 6.0), (200, 6.0)),
    bursts=64,
    spaced=64,
    first_events=10,
)


def main() -> None:
    """Run the benchmark and write the report, the chart and the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"), help="folder of the report")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    here = machine()
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name:
        contenders = _contenders(Path(name))
        with rounds.running(contenders) as (started, skipped):
            versions = {contender.name: contender.version for contender in started}
            found = rounds.run(started, _PLAN)
            charged = sum(contender.charged() or 0 for contender in started)
    run = report.Run(
        date=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=here,
        versions=versions,
        skipped=skipped,
        medians={name: medians(figures) for name, figures in found.items()},
        rounds=_PLAN.rounds,
        charged=charged,
    )
    _write(out, run, found)


def _contenders(folder: Path) -> list[Contender]:
    mock = Mock(folder)
    return [
        mock,
        Nginx(folder, upstream=mock.base_url),
        PassThrough(folder, upstream=mock.url),
        Stack(folder, groq_base_url=mock.base_url),
        Stack(folder, groq_base_url=mock.base_url, workers=max(2, os.cpu_count() or 0)),
        Stack(folder, groq_base_url=mock.base_url, workers=0),
        Portkey(folder, groq_base_url=mock.base_url),
        LiteLLM(folder, groq_base_url=mock.base_url),
    ]


def _write(out: Path, run: report.Run, found: Mapping[str, object]) -> None:
    (out / "latest.md").write_text(report.markdown(run), encoding="utf-8")
    raw = {**asdict(run), "plan": asdict(_PLAN), "rounds": found}
    (out / "latest.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    charts.draw(run.medians, out / "latest.png")
    say(f"wrote {out / 'latest.md'}, .json and .png")
    print(report.markdown(run))


if __name__ == "__main__":
    main()
