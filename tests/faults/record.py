"""Saves what is needed to explain a failing seed, in a separate folder.

`FAULT_EVIDENCE` names the parent of these folders; by default it is `faults-evidence` under the system's folder for
temporary files. The newest are kept, and each file is bounded.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from tests.faults.evidence import Evidence
from tests.faults.world import World

_FOLDERS_MAX = 20
_FILE_BYTES_MAX = 4 * 1024 * 1024
_TEXT_CHARACTERS_MAX = 2_000
"""Longest text in one member, such as an error's message."""


def log_sizes(world: World) -> dict[str, int]:
    """Return how much each program has logged so far."""
    return {name: len(world.stack.log(name).encode()) for name in world.stack.names if _has_log(world, name)}


def keep(world: World, evidence: Evidence, report: str, logged: Mapping[str, int]) -> Path:
    """Write all evidence of a seed's run, and return its folder.

    Args:
        world: Where it ran.
        evidence: The records of the run.
        report: The violations, in words.
        logged: How much each program had logged before.
    """
    plan = evidence.plan
    folder = _folder() / f"{plan.layout}-seed-{plan.seed}-{time.strftime('%Y%m%dT%H%M%S')}"
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    _write(folder / "report.txt", report)
    _write(folder / "schedule.json", _json(asdict(plan)))
    _write(folder / "clients.jsonl", _lines(asdict(result) for result in evidence.results))
    _write(folder / "rows.jsonl", _lines(asdict(row) for row in evidence.rows))
    _write(folder / "journal.jsonl", _lines(_without_body(entry) for entry in evidence.journal.values()))
    _write(folder / "redis.json", _json(_redis(world, evidence)))
    for name in world.stack.names:
        if _has_log(world, name):
            text = world.stack.log(name).encode()[logged.get(name, 0) :]
            _write(folder / "logs" / f"{name}.log", text.decode(errors="replace"), keeps_end=True)
    _forget_oldest(folder.parent)
    return folder


def _folder() -> Path:
    return Path(os.environ.get("FAULT_EVIDENCE") or Path(tempfile.gettempdir()) / "faults-evidence")


def _has_log(world: World, name: str) -> bool:
    return (world.stack.folder / f"{name}.log").exists()


def _redis(world: World, evidence: Evidence) -> dict[str, Any]:
    try:
        now: Any = world.valkey.all_entries(evidence.keys)
    except RedisError as exc:
        now = f"Redis does not answer: {exc}"
    return {
        "now": now,
        "at_the_end": _named(evidence.entries),
        "peaks": _named(evidence.peaks),
        "lost": _named(evidence.lost),
        "disagreements": [str(one) for one in evidence.discrepancies],
    }


def _named(by_day: Mapping[tuple[str, int], object]) -> dict[str, object]:
    return {f"{key_id} on day {day}": value for (key_id, day), value in by_day.items()}


def _without_body(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != "request"}


def _lines(values: Iterable[object]) -> str:
    return "".join(json.dumps(_short(value), default=str) + "\n" for value in values)


def _json(value: object) -> str:
    return json.dumps(_short(value), default=str, indent=1) + "\n"


def _short(value: Any) -> Any:
    """Return a JSON value with long texts cut."""
    if isinstance(value, str):
        return value if len(value) <= _TEXT_CHARACTERS_MAX else f"{value[:_TEXT_CHARACTERS_MAX]}… ({len(value)})"
    if isinstance(value, Mapping):
        return {name: _short(one) for name, one in value.items()}
    return [_short(one) for one in value] if isinstance(value, list | tuple) else value


def _write(path: Path, text: str, *, keeps_end: bool = False) -> None:
    raw = text.encode(errors="replace")
    path.write_bytes(raw[-_FILE_BYTES_MAX:] if keeps_end else raw[:_FILE_BYTES_MAX])


def _forget_oldest(folder: Path) -> None:
    kept = sorted((one for one in folder.glob("*-seed-*") if one.is_dir()), key=lambda one: one.stat().st_mtime)
    for one in kept[:-_FOLDERS_MAX]:
        shutil.rmtree(one)
