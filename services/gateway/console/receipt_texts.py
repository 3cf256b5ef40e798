"""Timeline of a request, and its facts as text for a bug report."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.common.receipts import Receipt
from services.gateway.console.failures import Failure
from services.gateway.console.labels import label


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the time that a request took."""

    text: str
    """What happened and how long, such as `in the queue: 12 ms`."""
    colour: int
    start: float
    """Percent of the whole time."""
    width: float


def timeline_of(receipt: Receipt) -> Sequence[Phase]:
    """Return the phases of a request that took time: in the queue, until the first output, and output.

    Times of different clocks may not fit together, so phases are cut at the end.
    """
    total = max(1, receipt.duration_ms)
    queued = min(receipt.queue_ms or 0, total)
    first = min(max(receipt.time_to_first_token_ms or total, queued), total)
    waiting = "until the first output" if receipt.time_to_first_token_ms else "waiting for the model"
    ends = [(4, "in the queue", queued), (1, waiting, first), (0, "output", total)]
    phases, start = list[Phase](), 0
    for colour, name, end in ends:
        if end > start:
            width = round(100 * (end - start) / total, 2)
            phases.append(Phase(f"{name}: {end - start:,} ms", colour, round(100 * start / total, 2), width))
        start = max(start, end)
    return phases


def bug_report(receipt: Receipt, failure: Failure | None) -> str:
    """Return the facts of a request as lines of text, without anything secret."""
    answered_by = receipt.upstream_model or "no model"
    lines = [
        ("Request", receipt.id),
        ("Time", receipt.created_at),
        ("Outcome", label(receipt.outcome)),
        ("Status", _status(failure)),
        ("Model", receipt.model if receipt.model == answered_by else f"{receipt.model}, answered by {answered_by}"),
        (
            "API",
            f"{label(receipt.surface) if receipt.surface else 'not recorded'}{', streamed' if receipt.stream else ''}",
        ),
        ("Tokens", f"{receipt.usage.prompt_tokens} sent, {receipt.usage.completion_tokens} received"),
        ("Duration", _duration(receipt)),
        ("Calls to the model", str(receipt.attempts)),
        ("Charged", "yes" if receipt.charged else f"no ({receipt.refund_reason})"),
    ]
    return "\n".join(f"{name}: {text}" for name, text in lines)


def _status(failure: Failure | None) -> str:
    if failure is None:
        return "200"
    return " ".join(part for part in (str(failure.status or "disconnected"), failure.code) if part)


def _duration(receipt: Receipt) -> str:
    first = receipt.time_to_first_token_ms
    return f"{receipt.duration_ms} ms{f', first output after {first} ms' if first else ''}"
