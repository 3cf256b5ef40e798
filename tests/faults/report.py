"""Describes a seed's run: one line of what happened, and a page when something is wrong."""

import re
from collections import Counter
from collections.abc import Iterator

from tests.faults.evidence import Evidence
from tests.faults.schedule import Fault
from tests.faults.world import World

PROBLEMS_SHOWN = 20
_REQUESTS_SHOWN = 10
_LINES_SHOWN = 60
_LINE_CHARACTERS_MAX = 1_000


def summary(evidence: Evidence) -> str:
    """Return one line: what broke, what clients received, how requests ended in the ledger, and on which surfaces."""
    faults = ", ".join(map(_named, evidence.plan.faults))
    seen = Counter(str(result.status or "left or cut") for result in evidence.results)
    ends = Counter(row.outcome for row in evidence.rows)
    surfaces = Counter(result.request.surface for result in evidence.results)
    whole = Counter(result.request.surface for result in evidence.results if result.is_complete)
    late = sum(row.refund_reason == "no_verdict" and row.outcome != "unknown" for row in evidence.rows)
    sent = ", ".join(f"{name} {whole[name]}/{count}" for name, count in sorted(surfaces.items()))
    return f"{faults}: {_counts(seen)}; rows: {_counts(ends)}, {late} late; whole answers/requests: {sent} "


def failure(world: World, evidence: Evidence, found: list[str]) -> str:
    """Return the violations, and all evidence of the requests concerned."""
    plan = evidence.plan
    ids = list(dict.fromkeys(re.findall(r"req_\w+", " ".join(found[:PROBLEMS_SHOWN]))))[:_REQUESTS_SHOWN]
    lines = [
        f"seed {plan.seed}; again with: make test-faults SEED={plan.seed} FAULT_LAYOUT={plan.layout}",
        f"limits {plan.limits}, {len(evidence.results)} requests, {len(evidence.rows)} rows, the model list is "
        f"{plan.model_list}; faults:",
        *(f"  {fault.at:.2f} s: {_named(fault)} for {fault.seconds:.2f} s" for fault in plan.faults),
        f"the machine stalled for up to {evidence.stalled_seconds:.2f} s",
        f"{len(found)} problems:",
        *(f"- {text}" for text in found[:PROBLEMS_SHOWN]),
        "of these requests:",
        *(line for one in ids for line in _described(evidence, one)),
        "logged of them:",
        *_logged(world, ids),
    ]
    return "\n".join(line[:_LINE_CHARACTERS_MAX] for line in lines)


def _named(fault: Fault) -> str:
    return f"{fault.harm} {fault.target}" + (f" by {fault.step:+d} s" if fault.step else "")


def _described(evidence: Evidence, request_id: str) -> Iterator[str]:
    """Yield a client's record of a request, its row, and the upstream's record of it."""
    for result in evidence.results:
        if result.request_id == request_id:
            sent, ended = result.started_at - evidence.started_at, result.ended_at - evidence.started_at
            yield f"  client: {result}, from {sent:.2f} s to {ended:.2f} s, error {result.error}"
            for entry in evidence.exchanges.get(result.request.number, []):
                reported = {name: value for name, value in entry.items() if name != "request"}
                yield f"  upstream, {entry['received_at'] - evidence.started_at:.2f} s: {reported}"
    for row in evidence.rows:
        if request_id in (row.request_id, row.upstream_id):
            yield f"  ledger: {row}"


def _logged(world: World, ids: list[str]) -> list[str]:
    lines = [(name, line) for name in world.stack.names for line in world.stack.log(name).splitlines()]
    return [f"  {name}: {line}" for name, line in lines if any(one in line for one in ids)][:_LINES_SHOWN]


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items()))
